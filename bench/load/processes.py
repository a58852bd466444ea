"""Server processes: started on given CPUs, measured and stopped with all their descendants.

Some servers detach their children, so descendants are not found by parent id but by an environment variable, which
every descendant inherits. Linux only: it reads /proc.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "BENCH_MARK"
END_SECONDS = 15.0
TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """Pin processes that are started within the block to these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_ports(count: int) -> list[int]:
    """Return `count` free TCP ports."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """CPU time and memory of a server's processes."""

    cpu_seconds: float
    rss: int
    pss: int
    """Proportional set size in bytes."""
    processes: int


@dataclass(frozen=True, slots=True)
class Family:
    """A server process with all its descendants."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def members(self) -> list[int]:
        """Return the ids of its living processes."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                with contextlib.suppress(OSError):
                    if needle in (directory / "environ").read_bytes().split(b"\0"):
                        found.append(int(directory.name))
        return found

    def cpu_seconds(self, members: Sequence[int]) -> float:
        """Return the CPU time of these processes."""
        return sum(_cpu_ticks(member) for member in members) / TICKS

    def usage(self) -> Usage:
        """Return CPU time and memory."""
        members = self.members()
        rss = pss = 0
        for member in members:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                    name, _, rest = line.partition(":")
                    rss += int(rest.split()[0]) * 1024 if name == "Rss" else 0
                    pss += int(rest.split()[0]) * 1024 if name == "Pss" else 0
        return Usage(cpu_seconds=self.cpu_seconds(members), rss=rss, pss=pss, processes=len(members))

    def signal(self, number: int) -> None:
        """Send a signal to all its processes, such as SIGSTOP and SIGCONT."""
        for member in self.members():
            with contextlib.suppress(OSError):
                os.kill(member, number)

    def last_lines(self, count: int = 3) -> str:
        """Return the end of its output as one line."""
        lines = self.log.read_text(errors="replace").split("\n")
        return " | ".join([line.strip() for line in lines if line.strip()][-count:])

    def end(self) -> None:
        """Stop it: SIGTERM to the first process, then SIGKILL to any that remain."""
        self.signal(signal.SIGCONT)
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
        while self.members():
            self.signal(signal.SIGKILL)
            self.process.poll()
            time.sleep(0.02)  # until a killed process has exited
        self.process.wait()


def start(
    command: Sequence[str],
    *,
    cpus: Sequence[int],
    directory: Path,
    environment: Mapping[str, str],
) -> Family:
    """Start a server on these CPUs in a new directory, which also has its output."""
    directory.mkdir(parents=True, exist_ok=True)
    mark, log = uuid.uuid4().hex, directory / "output.log"
    with log.open("wb") as output, pinned(cpus):
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Family(process, mark, log)


def _cpu_ticks(process: int) -> int:
    """Return the clock ticks of a process in user and system mode, including its terminated children."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(value) for value in fields[11:15])
