"""File descriptors: whether a process may open as many as its connections need."""

import contextlib
import errno
import os
import resource
import sys

from common.errors import ConfigurationError
from serving.settings import ENVIRONMENT_PREFIX, ServiceSettings

RESERVE = 128
"""What a process has open beside its connections: listening sockets, event loop, logs, a model being loaded."""
MIN_CONNECTIONS = 64
"""Connections below which a start that asked for no number ends with a sentence."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Why `accept` fails though a client has connected; it goes on failing until something is closed."""


def raise_limit(settings: ServiceSettings) -> ServiceSettings:
    """Raise this process's soft limit of descriptors as far as its connections need; children inherit it.

    Returns:
        The settings. Where no number of connections was asked for and the hard limit is below what the default needs,
        they have as many as it allows, and so has the environment, which workers read.

    Raises:
        ConfigurationError: the hard limit does not allow the connections that were asked for, or hardly any.
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
        with contextlib.suppress(OSError):  # whoever does not read it shall be served all the same
            print(
                f"warning: a process may open {hard} files, so it has {possible} connections and not "
                f"{settings.connections}: raise the limit (ulimit -Hn) for more, or set GLYPH_CONNECTIONS",
                file=sys.stderr,
            )
        os.environ[f"{ENVIRONMENT_PREFIX}CONNECTIONS"] = str(possible)
        settings, needed = settings.model_copy(update={"connections": possible}), hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return settings
