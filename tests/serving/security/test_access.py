"""Bearer tokens: who is let in, what the others are told, and a file that changes under way."""

import hashlib
import hmac
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.support.management import await_, managed
from bench.support.pictures import a_digit, png
from bench.support.processes import PNG, ROOT, Answer, environment, serving_command
from bundle.repository import Bundle
from common.errors import ConfigurationError
from serving.errors import AuthorizationUnavailableError, BearerMalformedError, UnauthorizedError
from serving.security import tokens as access
from serving.security.tokens import Authenticator, TokenEntry, TokenFile, parse_tokens
from serving.settings import ServiceSettings
from serving.token import line_of, main, new_token
from serving.web.app import create_app
from tests.serving.security.conftest import Guarded

HASH = hashlib.sha256(b"secret").hexdigest()
INFER = "/v2/models/synthetic/infer"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a clock that stands still until a test moves it."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def replace(path: Path, text: str) -> None:
    """Put another file in a file's place, as a Kubernetes Secret is replaced."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def test_the_file_names_holders_and_the_hashes_of_their_tokens() -> None:
    """Comments, empty lines and spaces around are no lines."""
    assert parse_tokens(f"# a comment\n\n  till sha256:{HASH}  \n") == (
        TokenEntry("till", bytes.fromhex(HASH)),
    )
    assert parse_tokens("# nobody\n") == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "empty"),
        ("\n", "empty"),
        (f"till {HASH}", "line 1 .* is not"),
        (f"# x\ntill sha256:{HASH[1:]}", "line 2 .* is not"),
        (f"till sha256:{HASH.upper()}", "line 1 .* is not"),
        (f"sha256:{HASH}", "line 1 .* is not"),
        (f"a b sha256:{HASH}", "line 1 .* is not"),
        (f"till sha256:{HASH}\ntill sha256:{HASH}", "line 2 .* repeats the name 'till'"),
    ],
)
def test_a_broken_file_is_refused_and_nothing_of_its_lines_repeated(text: str, sentence: str) -> None:
    """A line that is not understood may hold a token."""
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        parse_tokens(text)
    assert HASH[1:] not in str(caught.value).lower()


def test_the_printed_line_lets_the_printed_token_in(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The command's two streams are the two halves; a second token is another."""
    assert main(["till-7"]) == 0
    printed = capsys.readouterr()
    (token,) = [line.strip() for line in printed.err.splitlines() if line.startswith("    ")]
    file = tmp_path / "tokens"
    file.write_text(printed.out)
    assert token not in printed.out
    assert printed.out == f"till-7 sha256:{hashlib.sha256(token.encode()).hexdigest()}\n"
    assert TokenFile(file).authenticate(f"Bearer {token}") == "till-7"
    assert len(token) >= 43
    assert new_token() != token


@pytest.mark.parametrize("name", ["", "two words", "#x", "a" * 65, "x\n"])
def test_a_name_that_cannot_stand_in_the_file_makes_no_token(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, and nothing is printed that could be taken for a line."""
    assert main([name]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_valid_token_says_who_asks(scheme: str, tmp_path: Path) -> None:
    """The scheme's name has no case (RFC 9110, section 11.1)."""
    file = tmp_path / "tokens"
    file.write_text(line_of("a", "other") + "\n" + line_of("till", "secret"))
    assert TokenFile(file).authenticate(f"{scheme} secret") == "till"


@pytest.mark.parametrize("field", [None, "", "Basic c2VjcmV0", "Digest x", "Bearers secret", "secret"])
def test_a_request_without_a_bearer_token_gets_a_bare_challenge(field: str | None, tmp_path: Path) -> None:
    """RFC 6750, section 3.1: no error code for who sent no token."""
    file = tmp_path / "tokens"
    file.write_text(line_of("till", "secret"))
    with pytest.raises(UnauthorizedError) as caught:
        TokenFile(file).authenticate(field)
    assert caught.value.headers == {"WWW-Authenticate": 'Bearer realm="glyph"'}


@pytest.mark.parametrize("token", ["secre", "secret2", "Secret", HASH, "secret="])
def test_a_wrong_token_is_told_so(token: str, tmp_path: Path) -> None:
    """The hash in the file is no token either."""
    file = tmp_path / "tokens"
    file.write_text(line_of("till", "secret"))
    with pytest.raises(UnauthorizedError) as caught:
        TokenFile(file).authenticate(f"Bearer {token}")
    assert caught.value.headers["WWW-Authenticate"] == 'Bearer realm="glyph", error="invalid_token"'


@pytest.mark.parametrize(
    "rest", ["", " ", " a b", " s\u00e9cret", " secret, Bearer secret", "\tsecret", ' "secret"']
)
def test_what_is_no_token_is_400(rest: str, tmp_path: Path) -> None:
    """RFC 6750, section 3.1: invalid_request."""
    file = tmp_path / "tokens"
    file.write_text(line_of("till", "secret"))
    expected = UnauthorizedError if rest.startswith("\t") else BearerMalformedError
    with pytest.raises(expected) as caught:
        TokenFile(file).authenticate(f"Bearer{rest}")
    assert caught.value.status in (400, 401)


def test_every_hash_is_compared_and_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither which token it was nor how much of it was right shows in the time."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    file = tmp_path / "tokens"
    file.write_text("\n".join(line_of(f"h{index}", f"token{index}") for index in range(5)))
    assert TokenFile(file).authenticate("Bearer token1") == "h1"
    assert [left for left, _ in compared] == [hashlib.sha256(f"token{i}".encode()).digest() for i in range(5)]


def test_a_token_is_rotated_without_a_restart(tmp_path: Path, now: list[float]) -> None:
    """The new one is let in with the old, then alone; the file is looked at once a second."""
    file = tmp_path / "tokens"
    old, new = line_of("till", "old"), line_of("till-new", "new")
    file.write_text(old)
    tokens = TokenFile(file)
    assert tokens.authenticate("Bearer old") == "till"
    replace(file, f"{old}\n{new}\n")
    now[0] += 0.5
    with pytest.raises(UnauthorizedError):
        tokens.authenticate("Bearer new")
    now[0] += 0.6
    assert tokens.authenticate("Bearer new") == "till-new"
    assert tokens.authenticate("Bearer old") == "till"
    replace(file, new)
    now[0] += 1.1
    assert tokens.authenticate("Bearer new") == "till-new"
    with pytest.raises(UnauthorizedError):
        tokens.authenticate("Bearer old")


def test_a_file_of_comments_lets_nobody_in(tmp_path: Path, now: list[float]) -> None:
    """All tokens can be taken back."""
    file = tmp_path / "tokens"
    file.write_text(line_of("till", "secret"))
    tokens = TokenFile(file)
    assert tokens.authenticate("Bearer secret") == "till"
    replace(file, "# nobody\n")
    now[0] += 1.1
    with pytest.raises(UnauthorizedError):
        tokens.authenticate("Bearer secret")


@pytest.mark.parametrize("broken", [None, "", "half a li"])
def test_a_file_that_breaks_changes_nothing_and_is_logged_once(
    broken: str | None, tmp_path: Path, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Gone, empty as while it is written, or damaged: those who could ask still can, until it is whole again."""
    file = tmp_path / "tokens"
    file.write_text(line_of("till", "secret"))
    tokens = TokenFile(file)
    assert tokens.authenticate("Bearer secret") == "till"
    file.unlink()
    if broken is not None:
        file.write_text(broken)
    for _ in range(3):
        now[0] += 1.1
        assert tokens.authenticate("Bearer secret") == "till"
    assert len([record for record in caplog.records if "stay valid" in record.getMessage()]) == 1
    replace(file, line_of("till", "another"))
    now[0] += 1.1
    assert tokens.authenticate("Bearer another") == "till"


@pytest.mark.parametrize("broken", [None, "till sha256:half a li"])
def test_a_revocation_that_cannot_be_read_is_an_alarm(
    bundle: Bundle, tmp_path: Path, broken: str | None
) -> None:
    """Though nobody asks for anything: the gauge falls, and the log says what is so meanwhile, until it is read."""
    file = tmp_path / "tokens"
    file.write_text(line_of("till", "secret"))
    with managed(tmp_path, model=bundle.path.parent, tokens_file=file, metrics_token=False) as pod:

        def status() -> int:
            field = "Bearer secret"
            return pod.service.ask(
                "POST", "/predict", png(a_digit()), Content_Type=PNG, Authorization=field
            ).status

        assert pod.value("glyph_tokens_file_readable") == 1
        file.unlink() if broken is None else replace(file, broken)
        pod.await_value(0, "glyph_tokens_file_readable")
        assert "revocations have no effect, until the file can be read" in pod.service.log()
        assert status() == 200
        replace(file, line_of("till", "another"))
        pod.await_value(1, "glyph_tokens_file_readable")
        await_(lambda: status() == 401)


def test_a_file_that_never_was_readable_lets_nobody_in(tmp_path: Path, now: list[float]) -> None:
    """That is the operator's trouble, 503, and it heals by itself."""
    tokens = TokenFile(tmp_path / "tokens")
    with pytest.raises(AuthorizationUnavailableError):
        tokens.authenticate("Bearer secret")
    (tmp_path / "tokens").write_text(line_of("till", "secret"))
    now[0] += 1.1
    assert tokens.authenticate("Bearer secret") == "till"


def test_a_file_that_was_made_readable_is_read_again(tmp_path: Path, now: list[float]) -> None:
    """Its time and size are as before; only that reading failed says that it must be tried again."""
    file = tmp_path / "tokens"
    file.mkdir()
    tokens = TokenFile(file)
    with pytest.raises(AuthorizationUnavailableError):
        tokens.authenticate("Bearer secret")
    file.rmdir()
    file.write_text(line_of("till", "secret"))
    now[0] += 1.1
    assert tokens.authenticate("Bearer secret") == "till"


def test_the_service_does_not_start_without_the_file_it_was_told_of(tmp_path: Path) -> None:
    """Exit code 2 and a sentence, before anything listens."""
    ended = subprocess.run(
        serving_command(),
        env=environment(tokens_file=tmp_path / "none"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the token file")
    assert "No such file" in ended.stderr


def test_what_is_asked_for_a_token_is_everything_that_is_not_named(tmp_path: Path) -> None:
    """Probes and the page are open, metrics and documentation by choice, and a path nobody knows is not."""
    file = tmp_path / "tokens"
    file.write_text(line_of("till", "secret"))

    def closed(path: str, **settings: bool) -> bool:
        authenticator = Authenticator(ServiceSettings(tokens_file=file, **settings))
        try:
            authenticator.check_path("GET", path, None)
        except UnauthorizedError:
            return True
        return False

    probes = ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready")
    for path in (*probes, "/", "/assets/main.js"):
        assert not closed(path, docs_token=True, metrics_token=True), path
    for path in (
        "/metadata",
        "/v2",
        "/v2/models/x",
        "/samples",
        "/nowhere",
        "/assets",
        "/livez/",
        "/x/livez",
    ):
        assert closed(path), path
    for path, choice in (
        ("/metrics", "metrics_token"),
        ("/docs", "docs_token"),
        ("/openapi.json", "docs_token"),
    ):
        assert not closed(path)
        assert closed(path, **{choice: True})


def test_without_a_file_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off costs nothing: no hash, no look at any file."""
    monkeypatch.setattr(access, "digest_of", lambda _: pytest.fail("a token was hashed"))
    assert Authenticator(ServiceSettings()).authenticate("Bearer x") is None


def test_every_route_of_the_application_is_closed_or_named(bundle: Bundle, tmp_path: Path) -> None:
    """A route that somebody adds asks for a token, without being told to."""
    file = tmp_path / "tokens"
    file.write_text(line_of("till", "secret"))
    app = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu", tokens_file=file))
    named = access.PUBLIC_PATHS | access.DOCUMENTATION_PATHS | {access.METRICS_PATH}
    asked = 0
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<", "").replace(">", "")
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            status = app.test_client().open(path, method=method).status_code
            opened = path in named or path.startswith(access.PUBLIC_PREFIX)
            assert (status == 401) is not opened, (method, path, status)
            asked += 1
    assert asked > 10


def test_a_prediction_needs_the_token_by_both_worker_classes(guarded: Guarded) -> None:
    """Without it 401 with the challenge, in the form that the route's errors have; with it 200."""
    body = png(a_digit())
    refused = guarded.service.post(body)
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="glyph"'
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:glyph:problem:unauthorized"
    assert "Authorization: Bearer" in refused.json()["remedy"]
    assert guarded.ask("POST", "/predict", body, Content_Type=PNG).status == 200
    wrong = guarded.service.ask("POST", "/predict", body, Content_Type=PNG, Authorization="Bearer wrong")
    assert (wrong.status, wrong.json()["status"]) == (401, 401)
    assert 'error="invalid_token"' in wrong.headers["WWW-Authenticate"]
    broken = guarded.service.ask("POST", "/predict", body, Content_Type=PNG, Authorization="Bearer a b")
    assert broken.status == 400


def test_the_inference_protocol_needs_the_token_and_says_so_in_its_own_form(guarded: Guarded) -> None:
    """Its errors are {"error": ...}; its health is open."""
    for method, path in (("POST", INFER), ("GET", "/v2"), ("GET", "/v2/models/synthetic")):
        refused = guarded.service.ask(method, path, b"{}" if method == "POST" else None)
        assert refused.status == 401, path
        assert set(refused.json()) == {"error"}
        assert refused.headers["WWW-Authenticate"] == 'Bearer realm="glyph"'
    assert guarded.ask("GET", "/v2").status == 200
    for path in ("/v2/health/live", "/v2/health/ready", "/livez", "/readyz", "/healthz"):
        assert guarded.service.ask("GET", path).status == 200, path


def test_a_path_that_is_not_there_is_not_told_to_who_may_not_ask(guarded: Guarded) -> None:
    """401 without the token, 404 with it."""
    assert guarded.service.ask("GET", "/nowhere").status == 401
    assert guarded.service.ask("GET", "/predict").status == 401
    assert guarded.ask("GET", "/nowhere").status == 404


def test_the_running_service_takes_a_new_token_and_drops_it(guarded: Guarded) -> None:
    """Within seconds of the file's replacement, without a restart."""
    body, before = png(a_digit()), guarded.tokens.read_text()
    token = new_token()

    def ask() -> Answer:
        return guarded.service.ask(
            "POST", "/predict", body, Content_Type=PNG, Authorization=f"Bearer {token}"
        )

    def await_status(status: int) -> None:
        await_(lambda: ask().status == status)

    assert ask().status == 401
    replace(guarded.tokens, before + line_of("till-8", token) + "\n")
    await_status(200)
    replace(guarded.tokens, before)
    await_status(401)
    assert guarded.ask("POST", "/predict", body, Content_Type=PNG).status == 200


def test_the_command_is_a_module(tmp_path: Path) -> None:
    """What the documentation says to type."""
    made = subprocess.run(
        [sys.executable, "-m", "serving.token", "till"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert parse_tokens(made.stdout)[0].name == "till"
