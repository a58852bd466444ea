"""`glyph predict`: the same answer from a model in the process and from a service, for people and for programs."""

import http.client
import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.support.models import publish_synthetic
from bench.support.pictures import EVERY_MODE, a_digit, encoded, png
from bench.support.processes import Service, free_port, running
from bundle.manifest import ONNX_FILE
from bundle.repository import Bundle
from glyph.endings import EXIT_BROKEN_PIPE
from serving.token import line_of, new_token
from tests.conftest import ROOT
from tests.glyph.calling import SECONDS, command, environment, error_of, glyph
from tests.serving.certificates import write_certificate


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a published version of a model that resizes by `fit`; no test changes it."""
    return publish_synthetic(tmp_path_factory.mktemp("models"), resize="fit")


@pytest.fixture(scope="module")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service of it."""
    with running(
        tmp_path_factory.mktemp("service"), until="/readyz", model=bundle.path.parent, log_level="error"
    ) as started:
        yield started


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """Return an image file."""
    path = tmp_path / "digit.png"
    path.write_bytes(png(a_digit()))
    return path


def here(bundle: Bundle) -> list[object]:
    """Return the options for a model in the process."""
    return ["--model", bundle.path.parent]


def there(service: Service) -> list[object]:
    """Return the options for a service."""
    return ["--url", f"http://127.0.0.1:{service.port}"]


def objects(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    """Return the lines of the output."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_both_ways_give_the_same_bytes(bundle: Bundle, service: Service, tmp_path: Path) -> None:
    """Of files of every kind, images that are warned of, others that are refused, and what is no file."""
    inverted = 255 - a_digit()
    large = Image.fromarray(a_digit()).resize((100, 80))
    contents = [
        *EVERY_MODE,
        png(inverted),
        png(np.zeros((28, 28), np.uint8)),
        png(np.minimum(a_digit(), 1)),
        encoded(large, "PNG"),
        png(a_digit())[:-40],
        b"no image",
        b"",
        b"x" * ((1 << 20) + 1),
        b"x" * ((8 << 20) + 1),
    ]
    files: list[object] = [tmp_path / "nowhere.png", tmp_path]
    for place, content in enumerate(contents):
        files.append(tmp_path / f"{place:03}")
        (tmp_path / f"{place:03}").write_bytes(content)
    local = glyph("predict", *files, *here(bundle), GLYPH_PROVIDER="cpu")
    remote = glyph("predict", *files, *there(service))
    assert (local.returncode, local.stdout, local.stderr) == (
        remote.returncode,
        remote.stdout,
        remote.stderr,
    )
    assert local.returncode == 3
    found = objects(local)
    assert [one["file"] for one in found] == list(map(str, files))
    assert sum("predictions" in one for one in found) == len(EVERY_MODE) + 3
    warned = [one["predictions"][0]["warnings"] for one in found if "predictions" in one][-3:]
    assert [sentences[0].split(":")[0] for sentences in warned] == [
        "looks inverted",
        "looks blank",
        "no pixel is above 1",
    ]
    sentences = local.stderr.decode().splitlines()
    assert len(sentences) == len(found) - len(EVERY_MODE) - 3
    assert any("the image is 100x80 pixels" in each and "--resize fit" in each for each in sentences)
    assert not any("?resize" in each or "curl" in each for each in sentences)


def test_an_answer_has_the_services_digits(bundle: Bundle, service: Service, digit: Path) -> None:
    """A line is what `POST /predict` answers, with the file's name in front."""
    answer = service.post(digit.read_bytes())
    for options in (here(bundle), there(service)):
        done = glyph("predict", digit, *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout == b'{"file":%b,' % json.dumps(str(digit)).encode() + answer.body[1:] + b"\n"
        given = glyph("predict", "-", *options, given=digit.read_bytes())
        assert given.stdout == b'{"file":"-",' + answer.body[1:] + b"\n"


def test_other_sizes_are_resized_where_the_model_was_trained_so(
    bundle: Bundle, service: Service, tmp_path: Path
) -> None:
    """By `--resize`, both ways alike; any other way is the command line's fault."""
    path = tmp_path / "large.png"
    path.write_bytes(encoded(Image.fromarray(a_digit()).resize((100, 80)), "PNG"))
    local, remote = (
        glyph("predict", path, *options, "--resize", "fit") for options in (here(bundle), there(service))
    )
    assert (local.returncode, local.stdout) == (0, remote.stdout)
    for options in (here(bundle), there(service)):
        sentence = error_of(glyph("predict", path, *options, "--resize", "mnist"), 2)
        assert sentence.startswith("the model was trained on images resized by 'fit', not by 'mnist'")
        assert sentence.endswith("--resize fit.")


def shown(*words: object, **variables: object) -> tuple[int, str]:
    """Run the command in a terminal without colours; return the exit code and what the terminal shows."""
    ours, its = pty.openpty()
    try:
        process = subprocess.Popen(
            command(*words),
            cwd=ROOT,
            env=environment(TERM="dumb", COLUMNS=100, **variables),
            stdin=subprocess.DEVNULL,
            stdout=its,
            stderr=its,
        )
    finally:
        os.close(its)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # EIO: the last of the terminal's programs has gone
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    return process.wait(SECONDS), b"".join(pieces).decode().replace("\r\n", "\n")


def test_a_terminal_gets_a_table(bundle: Bundle, service: Service, digit: Path, tmp_path: Path) -> None:
    """With warnings and errors below their rows; the same both ways; `--json` has lines there, too."""
    other = tmp_path / "a[b]\x1b[31m.png"
    other.write_bytes(png(255 - a_digit()))
    words = ["predict", digit, other, tmp_path / "nowhere.png"]
    code, table = shown(*words, *here(bundle))
    assert code == 3
    assert shown(*words, *there(service)) == (3, table)
    head, first, second, warning, *rest = table.splitlines()
    assert head.split() == ["file", "label", "probability", "next"]
    answer = service.post(digit.read_bytes()).json()["predictions"][0]
    assert f" {answer['label']}      {answer['probability']} " in first
    assert "/a[b]\\u001b[31m.png  " in second
    assert warning.startswith("  warning: looks inverted: ")
    assert "\x1b" not in table
    assert "  error: there is no such file. Check its name." in [line.rstrip() for line in rest]
    code, lines = shown("predict", digit, "--json", *there(service))
    assert (code, json.loads(lines)["predictions"]) == (0, [answer])


def test_every_file_that_has_no_answer_is_an_exit_code(bundle: Bundle, digit: Path, tmp_path: Path) -> None:
    """Some, or all; a folder or a pattern names the scorer."""
    assert glyph("predict", digit, tmp_path, *here(bundle)).returncode == 3
    folder = error_of(glyph("predict", tmp_path, *here(bundle)), 65)
    assert (
        folder == f"{tmp_path}: it is a folder. Give image files; 'glyph score' takes folders and patterns."
    )
    pattern = error_of(glyph("predict", tmp_path / "*.jpg", *here(bundle)), 65)
    assert "there is no such file. Give image files; 'glyph score'" in pattern


def test_tokens_come_from_a_variable_or_a_file(bundle: Bundle, digit: Path, tmp_path: Path) -> None:
    """And never into a sentence; without one, or with another, the service's refusal says how to give it."""
    token = new_token()
    (tmp_path / "tokens").write_text(line_of("till", token) + "\n")
    (tmp_path / "token").write_text(token + "\n")
    with running(
        tmp_path, until="/readyz", model=bundle.path.parent, tokens_file=tmp_path / "tokens"
    ) as service:
        words = ["predict", digit, *there(service)]
        assert glyph(*words, GLYPH_TOKEN=token).returncode == 0
        assert glyph(*words, "--token-file", tmp_path / "token", GLYPH_TOKEN=new_token()).returncode == 0
        for refused in (glyph(*words), glyph(*words, GLYPH_TOKEN=new_token())):
            sentence = error_of(refused, 69)
            assert "401: " in sentence
            assert "GLYPH_TOKEN, or by --token-file" in sentence
        for wrong in ("a b", "é", "\udcff"):
            sentence = error_of(glyph(*words, GLYPH_TOKEN=wrong), 2)
            assert sentence.startswith("GLYPH_TOKEN has no token")
            assert wrong not in sentence
        assert "cannot be read" in error_of(glyph(*words, "--token-file", tmp_path / "none"), 2)
    assert glyph("predict", digit, *here(bundle), GLYPH_TOKEN=token).returncode == 0


def test_tls_takes_the_systems_certificates_or_those_of_the_variable(
    bundle: Bundle, digit: Path, tmp_path: Path
) -> None:
    """An untrusted one is refused, and the sentence names the variable."""
    certificate, key = write_certificate(tmp_path)
    port = free_port()
    with running(
        tmp_path,
        until=None,
        model=bundle.path.parent,
        port=port,
        tls_certificate=certificate,
        tls_key=key,
    ) as service:
        while b"Serving" not in service.output.read_bytes():
            assert service.process.poll() is None, service.log()
        words = ["predict", digit, "--url", f"https://127.0.0.1:{port}/"]
        assert glyph(*words, SSL_CERT_FILE=certificate).returncode == 0
        sentence = error_of(glyph(*words), 69)
        assert (
            "its certificate is untrusted (self-signed certificate); name its authority's file in SSL_CERT_FILE"
            in (sentence)
        )


Reply = tuple[int, dict[str, str], bytes]
HTML = {"Content-Type": "text/html"}


@contextmanager
def scripted(*replies: Reply) -> Iterator[tuple[int, list[tuple[str, dict[str, str]]]]]:
    """Run a server that gives these replies, the last one again and again; yield its port and what it was asked."""
    left, asked = list(replies), list[tuple[str, dict[str, str]]]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            status, fields, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in (fields | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, ExitStack() as stack:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield server.server_address[1], asked


def test_a_proxy_of_the_environment_is_asked_and_gets_no_other_hosts(service: Service, digit: Path) -> None:
    """By the usual variables, NO_PROXY included; its user and password are for it alone."""
    answer = service.post(digit.read_bytes()).body
    with scripted((200, {}, answer)) as (port, asked):
        proxy = f"http://me:pass%20word@127.0.0.1:{port}"
        assert glyph("predict", digit, "--url", "http://digits.test/a/", http_proxy=proxy).returncode == 0
        ((path, fields),) = asked
        assert path == "http://digits.test/a/predict"
        assert fields["proxy-authorization"] == "Basic bWU6cGFzcyB3b3Jk"
        words = ["predict", digit, *there(service)]
        assert glyph(*words, http_proxy=proxy, no_proxy="127.0.0.1").returncode == 0
        assert len(asked) == 1
    sentence = error_of(glyph(*words, http_proxy=f"http://127.0.0.1:{port}"), 69)
    assert (
        f"cannot be reached by the proxy 127.0.0.1:{port} of the environment: Connection refused" in sentence
    )


def test_what_passes_is_asked_for_again(service: Service, digit: Path) -> None:
    """A service that sheds load, or starts, is asked three times more; then it is not available."""
    answer = service.post(digit.read_bytes()).body
    busy: Reply = (503, HTML, b"<html>")
    with scripted(busy, busy, busy, (200, {}, answer)) as (port, asked):
        assert glyph("predict", digit, "--url", f"http://127.0.0.1:{port}").returncode == 0
        assert len(asked) == 4
    with scripted(busy) as (port, asked):
        sentence = error_of(glyph("predict", digit, "--url", f"http://127.0.0.1:{port}"), 69)
        assert sentence.startswith("the answer, 503 Service Unavailable, is not a Glyph service's")
        assert len(asked) == 4


def test_numbers_are_printed_as_the_service_writes_them(digit: Path) -> None:
    """Not parsed and written anew, which would change their digits; an answer is one line, however it came."""
    answer = (
        b'{"predictions":[{"label":"7","probability":0.99995685,\r\n'
        b'"probabilities":{"7":0.99995685,"9":0.00002010753},"warnings":[]}]}\n'
    )
    with scripted((200, {}, answer)) as (port, _):
        done = glyph("predict", digit, "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 0
    assert done.stdout.endswith(
        b'"probability":0.99995685,  "probabilities":{"7":0.99995685,"9":0.00002010753},"warnings":[]}]}\n'
    )


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ((200, HTML, b"<html></html>"), "the answer, 200 OK, is not a Glyph service's"),
        ((200, {}, b"[1, 2]"), "the answer, 200 OK, is not a Glyph service's"),
        ((200, {}, b"[" * 100_000), "the answer, 200 OK, is not a Glyph service's"),
        ((200, {}, b'{"predictions":[]}'), "the answer, 200 OK, is not a Glyph service's"),
        ((413, HTML, b"<html>too large"), "the answer, 413 "),
        ((301, {"Location": "https://x.test/\x85"}, b""), "redirects to https://x.test/"),
        ((399, {}, b""), "redirects to another address"),
        ((418, {}, b"{}"), "the answer, 418 I'm a Teapot, is not"),
        ((599, {}, b"{}"), "the answer, 599 , is not"),
    ],
)
def test_another_server_is_not_taken_for_a_service(reply: Reply, sentence: str, digit: Path) -> None:
    """Whatever it answers, one sentence says so; the token goes to no other host."""
    with scripted(reply) as (port, asked):
        assert sentence in error_of(glyph("predict", digit, "--url", f"http://127.0.0.1:{port}"), 69)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--url", "http://127.0.0.1:1"], 69, "http://127.0.0.1:1 cannot be reached: Connection refused"),
        (["--url", "http://nowhere.invalid"], 69, "http://nowhere.invalid cannot be reached: "),
        (["--url", "127.0.0.1:8080"], 2, "is not the URL of a service"),
        (["--url", "ftp://x"], 2, "is not the URL of a service"),
        (["--url", "http://x:y"], 2, "is not a URL"),
        (["--url", "http://x", "--model", "y"], 2, "--model and --url exclude each other"),
        (["--token-file", "x"], 2, "--token-file is for a service"),
        (["--resize", "crop"], 2, "--resize: "),
        (["--modle", "x"], 2, "unknown option --modle; did you mean '--model'?"),
        (["--model", "README.md"], 2, "README.md is a file: give the directory of a model"),
        (["--model", "nowhere"], 70, "no version is published in nowhere"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], code: int, sentence: str, digit: Path) -> None:
    """And an exit code of their own kind."""
    assert sentence in error_of(glyph("predict", digit, *words), code)


def test_the_services_variables_decide_which_model(bundle: Bundle, digit: Path, tmp_path: Path) -> None:
    """GLYPH_MODEL, which `--model` overrides; a misspelt one is refused as the service refuses it."""
    assert glyph("predict", digit, GLYPH_MODEL=bundle.path.parent).returncode == 0
    assert glyph("predict", digit, "--model", bundle.path, GLYPH_MODEL=tmp_path).returncode == 0
    assert "GLYPH_MODEL'?" in error_of(glyph("predict", digit, GLYPH_MODELL="x"), 2)
    assert glyph("predict", digit, *here(bundle), GLYPH_TOKENS_FILE=tmp_path / "none").returncode == 0
    assert "the CUDA execution provider was requested" in error_of(
        glyph("predict", digit, *here(bundle), GLYPH_PROVIDER="cuda", CUDA_VISIBLE_DEVICES=""), 69
    )


def test_a_version_that_cannot_be_proven_does_not_answer(digit: Path, tmp_path: Path) -> None:
    """The one before it does, and a line says so; where there is none, that is the error."""
    first = publish_synthetic(tmp_path)
    second = publish_synthetic(tmp_path)
    damaged = second.path / ONNX_FILE
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    done = glyph("predict", digit, "--model", second.path.parent)
    assert done.returncode == 0
    assert done.stderr.startswith(b"warning: version 2 is refused (")
    assert done.stderr.endswith(b"); version 1 answers\n")
    assert objects(done)[0]["model"]["version"] == first.version
    sentence = error_of(glyph("predict", digit, "--model", second.path), 70)
    assert "'glyph verify' says what is wrong" in sentence


@pytest.mark.parametrize("place", [here, there])
def test_ctrl_c_ends_it_at_once(
    place: Callable[[Any], list[object]], bundle: Bundle, service: Service, tmp_path: Path
) -> None:
    """By the signal, without a word: here while it waits for a file that nobody writes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    options = place(bundle if place is here else service)
    process = subprocess.Popen(
        command("predict", pipe, *options), cwd=ROOT, env=environment(), stderr=subprocess.PIPE
    )
    with pipe.open("wb"):  # waits until it is opened for reading
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=SECONDS)
    assert (process.returncode, error) == (-signal.SIGINT, b"")


def test_a_reader_that_has_gone_ends_it(bundle: Bundle, digit: Path) -> None:
    """`glyph predict ... | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as output:
        done = subprocess.run(
            command("predict", digit, digit, *here(bundle)),
            cwd=ROOT,
            env=environment(),
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (EXIT_BROKEN_PIPE, b"")


def test_a_service_that_is_not_ready_is_not_available(digit: Path, tmp_path: Path) -> None:
    """Its own sentence says why."""
    with running(tmp_path, until="/livez", model=tmp_path / "none") as service:
        assert service.ask("GET", "/readyz").status == http.client.SERVICE_UNAVAILABLE
        sentence = error_of(glyph("predict", digit, *there(service)), 69)
    assert "503: no model is served: no version is published" in sentence
