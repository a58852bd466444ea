"""Takes from Python what Linux has and macOS has not, for every process that has this folder on PYTHONPATH.

What is left out are attributes of the standard library, the paths below, and `sys.platform`. The kernel, the C library
and compiled packages stay Linux's.
"""

import fcntl
import os
import select
import signal
import socket
import sys
import time
import types
from typing import Any

LINUX = {
    fcntl: ("F_ADD_SEALS", "F_GETPIPE_SZ", "F_GET_SEALS", "F_NOTIFY", "F_SETPIPE_SZ"),
    os: (
        *(
            "O_DIRECT",
            "O_NOATIME",
            "O_PATH",
            "O_TMPFILE",
            "copy_file_range",
            "eventfd",
            "fdatasync",
            "getrandom",
        ),
        *("getxattr", "listxattr", "memfd_create", "pidfd_open", "pipe2", "posix_fadvise", "posix_fallocate"),
        *(
            "removexattr",
            "sched_getaffinity",
            "sched_getscheduler",
            "sched_setaffinity",
            "sched_setscheduler",
        ),
        *("setns", "setxattr", "splice", "timerfd_create", "unshare", "waitid"),
    ),
    select: ("epoll", "POLLRDHUP"),
    signal: ("sigtimedwait", "sigwaitinfo", "SIGPOLL", "SIGPWR", "SIGRTMAX", "SIGRTMIN", "SIGSTKFLT"),
    socket: (
        *("SOCK_CLOEXEC", "SOCK_NONBLOCK", "SO_BINDTODEVICE", "SO_MARK", "SO_PASSCRED", "SO_PEERCRED"),
        *(
            "SO_PRIORITY",
            "TCP_CORK",
            "TCP_DEFER_ACCEPT",
            "TCP_INFO",
            "TCP_LINGER2",
            "TCP_QUICKACK",
            "TCP_SYNCNT",
        ),
        *("TCP_USER_TIMEOUT", "TCP_WINDOW_CLAMP"),
    ),
    time: ("CLOCK_BOOTTIME", "CLOCK_TAI"),
}
ABSENT = ("/proc", "/sys", "/dev/shm")  # noqa: S108


def _check(path: Any) -> None:
    """Raise for a path that macOS has not."""
    if isinstance(path, str | bytes | os.PathLike):
        text = os.fsdecode(path)
        if text in ABSENT or text.startswith(tuple(f"{one}/" for one in ABSENT)):
            raise FileNotFoundError(2, "No such file or directory", text)


def _on_open(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir"):
        _check(arguments[0])


def _checked(function: Any) -> Any:
    def call(path: Any, *arguments: Any, **options: Any) -> Any:
        _check(path)
        return function(path, *arguments, **options)

    return call


for module, names in LINUX.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.addaudithook(_on_open)
os.stat, os.lstat = _checked(os.stat), _checked(os.lstat)
# Else sysconfig would look for the values of macOS' build.
os.environ["_PYTHON_SYSCONFIGDATA_NAME"] = (
    f"_sysconfigdata_{sys.abiflags}_{sys.platform}_{sys.implementation._multiarch}"
)
sys.platform = "darwin"
# The standard library imports it on macOS to learn which proxies the system's settings name.
proxies: Any = types.ModuleType("_scproxy")
proxies._get_proxy_settings = proxies._get_proxies = dict
sys.modules["_scproxy"] = proxies
