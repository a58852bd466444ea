"""File descriptors: whether a process may open as many as its connections need."""

import errno
import resource

from bundle.errors import ConfigurationError
from serving.settings import ServiceSettings

RESERVE = 128
"""What a process has open beside its connections: listening sockets, event loop, logs, a model being loaded."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Why `accept` fails though a client has connected; it goes on failing until something is closed."""


def ensure(settings: ServiceSettings) -> None:
    """Raise this process's soft limit of descriptors as far as its connections need; children inherit it.

    Raises:
        ConfigurationError: the hard limit does not allow that.
    """
    needed = settings.connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"GLYPH_CONNECTIONS={settings.connections} needs {needed} file descriptors and a process may open "
            f"{hard}: set GLYPH_CONNECTIONS to {max(8, hard - RESERVE)} or less, or raise the limit (ulimit -Hn; "
            "LimitNOFILE= in a systemd unit, --ulimit nofile= in Docker)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
