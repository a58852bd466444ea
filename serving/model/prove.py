"""A version is proven by a child process, where it can be timed and killed: `python -m serving.model.prove`.

What a graph does when it is loaded and asked for its golden examples is not known before: it may compute for hours,
take all memory, or crash the process. The child does what a worker does to open the version, and writes what came of
it as one line of JSON. On CUDA it makes a context of its own beside the worker's, which no GPU has shown yet.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from bundle.errors import BundleError, GoldenMismatchError, InvalidBundleError
from common.errors import one_line
from serving.errors import ProviderError
from serving.model.proofs import Kind
from serving.settings import ServiceSettings
from serving.system.memory import limit_memory
from serving.system.parent_death import end_with_parent

if TYPE_CHECKING:
    from bundle.repository import Bundle
    from serving.model.engine import Engine, Provider

log = logging.getLogger("glyph.serving")

LOOK_SECONDS = 0.05
MAX_REASON = 1000
"""Characters of a refusal, which every probe is answered with."""
FIRST_TO_BE_KILLED = "1000"
"""For `/proc/self/oom_score_adj` (proc(5)): short of memory, the kernel takes the child, and no worker that serves."""
Verdict = tuple[Kind, str]
"""What came of it, and the reason if that is a refusal."""


def prove(
    path: Path, provider: "Provider", settings: ServiceSettings, seconds: float, ending: threading.Event
) -> Verdict:
    """Have a child prove the version in the directory `path`, and return what came of it.

    Nothing came of it ("unknown") where `ending` was set, or somebody told the child to end: that says nothing about
    the version.

    Args:
        path: the version's directory.
        provider: the execution provider.
        settings: what else it depends on.
        seconds: that it may take; then it is killed.
        ending: set when this process ends.

    Raises:
        OSError: no process can be started.
    """
    task = {"path": str(path), "provider": provider, "parent": os.getpid()}
    words = orjson.dumps(task | {"settings": settings.model_dump(mode="json")}).decode()
    deadline = time.monotonic() + seconds
    with subprocess.Popen(
        [sys.executable, "-m", "serving.model.prove", words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        process_group=0,  # Ctrl-C is for the service, which ends it
    ) as child:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    said, _ = child.communicate(timeout=LOOK_SECONDS)
                    return _verdict(child.returncode, said)
                if ending.is_set():
                    return "unknown", ""
                if time.monotonic() > deadline:
                    return "bundle", f"to load and prove it took longer than {seconds:g} s, and was given up"
        finally:
            child.kill()


def _verdict(code: int, said: bytes) -> Verdict:
    """Return what came of it, by the child's exit code and its one line."""
    if -code in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return "unknown", ""
    if code == -signal.SIGKILL:
        return "bundle", "the process that proves it was killed by SIGKILL, most likely for want of memory"
    if code < 0:
        return "bundle", f"the process that proves it crashed by {signal.Signals(-code).name}"
    try:
        kind, reason = orjson.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        return "bundle", f"the process that proves it ended with exit code {code} and said nothing"
    return kind, reason


def open_bounded(bundle: "Bundle", provider: "Provider", settings: ServiceSettings) -> "Engine":
    """Open a version that nobody has proven, within the memory that is free; on the CPU, as CUDA knows no bound.

    Raises:
        InvalidBundleError: as `open_version`, or it takes more memory.
        ProviderError: as `open_version`.
    """
    from serving.model.engine import open_version

    if provider != "cpu":
        return open_version(bundle, provider, settings)
    try:
        with limit_memory():
            return open_version(bundle, provider, settings)
    except MemoryError as error:
        raise InvalidBundleError("to load and prove it takes more memory than there is") from error


def main() -> None:
    """Prove what the one argument asks for; the child's side."""
    task = orjson.loads(sys.argv[1])
    end_with_parent(task["parent"])
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_BE_KILLED)
    settings = ServiceSettings.model_validate(task["settings"])
    sys.stdout.buffer.write(orjson.dumps(_open(Path(task["path"]), task["provider"], settings)) + b"\n")


def _open(path: Path, provider: "Provider", settings: ServiceSettings) -> Verdict:
    from bundle.repository import Bundle
    from serving.model.engine import choose_provider

    try:
        choose_provider(provider, settings.device_id)  # it loads CUDA's libraries too
        open_bounded(Bundle.open(path), provider, settings)
    except GoldenMismatchError as error:
        return "golden", one_line(error, MAX_REASON)
    except BundleError as error:
        return "bundle", one_line(error, MAX_REASON)
    except ProviderError as error:
        return "provider", one_line(error, MAX_REASON)
    except Exception as error:
        log.exception("%s cannot be proven", path)
        return "bundle", f"an unexpected error: {one_line(error, MAX_REASON)}"
    return "proven", ""


if __name__ == "__main__":
    main()
