"""Numbers in shared memory: what a reader sees, and how it tells the living from the dead."""

import contextlib
import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from bench.support.processes import ROOT
from serving.system.memory_directory import is_alive
from serving.telemetry import shared_memory
from serving.telemetry.shared_memory import KEY_BYTES, MAX_VALUES_PER_KEY, SharedCounters

WRITER = """
import sys
from pathlib import Path
from serving.telemetry import shared_memory
from serving.telemetry.shared_memory import SharedCounters
def full(*_, **__):
    raise OSError(28, "No space left on device")
if len(sys.argv) > 2:
    shared_memory.open = full
counters = SharedCounters.create(Path(sys.argv[1]))
offset = counters.allocate(["counted", "label"])
for _ in range(1000):
    counters.values[offset] += 1
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def writing(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has counted to 1000 in a file, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Return a process that has counted to 1000 and waits, and its file."""
    path = tmp_path / "writer.counters"
    with writing(path) as process:
        yield process, path


def test_a_reader_sees_what_was_counted_and_that_its_writer_lives(
    writer: tuple[subprocess.Popen[str], Path],
) -> None:
    """Nothing has to be flushed for it."""
    _, path = writer
    found = shared_memory.read(path)
    assert found is not None
    assert {key: values.tolist() for key, values in found.items()} == {b'["counted","label"]': [1000.0]}
    assert shared_memory.read_value(path, 0) == 1000
    assert is_alive(path)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_what_was_counted_outlives_its_writer(
    writer: tuple[subprocess.Popen[str], Path], sign: signal.Signals
) -> None:
    """Whatever ended it, the kernel has freed its lock, and the numbers are whole."""
    process, path = writer
    process.send_signal(sign)
    process.wait()
    assert not is_alive(path)
    found = shared_memory.read(path)
    assert found is not None
    assert found[b'["counted","label"]'].tolist() == [1000.0]


def test_a_file_appears_only_with_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that comes between the two must not take a beginner for a dead one."""
    path = tmp_path / "writer.counters"
    seen = []
    monkeypatch.setattr(fcntl, "lockf", lambda *_: seen.append(path.exists()))
    SharedCounters.create(path)
    assert seen == [False]
    assert path.exists()


def test_no_room_on_the_memory_file_system_takes_no_number_from_readers(tmp_path: Path) -> None:
    """A hole in a mapped file would be a SIGBUS later, so a link to the writer's own memory takes the file's place."""
    path = tmp_path / "writer.counters"
    with writing(path, "full") as process:
        assert list(tmp_path.iterdir()) == [path]
        assert path.lstat().st_size < 100
        found = shared_memory.read(path)
        assert found is not None
        assert found[b'["counted","label"]'].tolist() == [1000.0]
        assert is_alive(path)
        process.kill()
        process.wait()
        assert not is_alive(path)
        assert shared_memory.read(path) is None


@pytest.mark.parametrize("count", [1, 100, MAX_VALUES_PER_KEY])
def test_labels_without_bound_stop_at_the_end_of_the_file(
    tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither keys nor values run over; what found no room is counted where nobody reads."""
    path = tmp_path / "writer.counters"
    made = SharedCounters.create(path)
    for number in range(KEY_BYTES // 8):
        offset = made.allocate(["kept", str(number)], count)
    for length in (count, 1, MAX_VALUES_PER_KEY):
        offset = made.allocate(["lost"], length)
        made.array[offset : offset + length] += 1
    found = shared_memory.read(path)
    assert found is not None
    assert 0 < len(found) < number
    kept = {key: values for key, values in found.items() if b"kept" in key}  # a short key may still find room
    assert [orjson.loads(key)[1] for key in kept] == [str(number) for number in range(len(kept))]
    assert sum(values.sum() for values in kept.values()) == 0
    assert caplog.text.count("no room for more metrics") == 1


def test_what_is_no_such_file_has_no_numbers(tmp_path: Path) -> None:
    """A file that is gone, empty or another's is not an error."""
    assert shared_memory.read(tmp_path / "gone") is None
    assert shared_memory.read_value(tmp_path / "gone", 0) == 0
    assert not is_alive(tmp_path / "gone")
    (tmp_path / "other").write_bytes(b"")
    assert shared_memory.read(tmp_path / "other") is None
    assert shared_memory.read_value(tmp_path / "other", 0) == 0
    (tmp_path / "other").write_bytes(bytes(100))
    assert shared_memory.read(tmp_path / "other") is None
