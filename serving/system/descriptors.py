"""The limit of file descriptors, which has to allow as many as a process has connections."""

import contextlib
import errno
import os
import resource
import sys

from common.errors import ConfigurationError
from serving.settings import ENVIRONMENT_PREFIX, ServiceSettings

RESERVE = 128
"""Descriptors that a process needs beside its connections: listening sockets, event loop, logs, a model's files."""
MIN_CONNECTIONS = 64
"""Connections below which the service does not start, even if no number was asked for."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of accept(2) that persist until something is closed."""


def raise_limit(settings: ServiceSettings) -> ServiceSettings:
    """Raise the soft limit of descriptors as far as the connections need; child processes inherit it.

    Returns:
        The settings. If no number of connections was set and the hard limit does not allow the default, they have as
        many as it allows, and so has the environment, which workers read.

    Raises:
        ConfigurationError: the hard limit does not allow the connections that were set, or fewer than
            `MIN_CONNECTIONS`.
    """
    needed = settings.connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings
    if hard != resource.RLIM_INFINITY and hard < needed:
        possible = hard - RESERVE
        if "connections" in settings.model_fields_set or possible < MIN_CONNECTIONS:
            raise ConfigurationError(
                f"GLYPH_CONNECTIONS={settings.connections} needs {needed} file descriptors and a process may open "
                f"{hard}: set GLYPH_CONNECTIONS to {max(8, possible)} or less, or raise the limit (ulimit -Hn; "
                "LimitNOFILE= in a systemd unit, --ulimit nofile= in Docker)"
            )
        with contextlib.suppress(OSError):  # standard error may be closed
            print(
                f"warning: a process may open {hard} files, so it has {possible} connections and not "
                f"{settings.connections}: raise the limit (ulimit -Hn) for more, or set GLYPH_CONNECTIONS",
                file=sys.stderr,
            )
        os.environ[f"{ENVIRONMENT_PREFIX}CONNECTIONS"] = str(possible)
        settings, needed = settings.model_copy(update={"connections": possible}), hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return settings
