"""`glyph COMMAND` is the program that `python -m` runs, by its own name, and imports nothing else."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import glyph.__main__ as command_line
from bench.support.models import publish_synthetic
from bench.support.pictures import a_digit, png
from bundle import __version__
from bundle.repository import Bundle
from common.programs import called, named
from glyph.commands import COMMANDS, NAMES
from glyph.endings import EXIT_BROKEN_PIPE, EXIT_MISSING, MissingPackageError, needing
from glyph.predict import _EPILOGUE
from tests.conftest import ROOT
from tests.glyph.calling import SECONDS, command, environment, error_of, glyph, loaded

LINES, COLUMNS = 24, 80
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a published version that no test changes."""
    return publish_synthetic(tmp_path_factory.mktemp("models"))


def test_the_help_is_one_screen_and_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """With a line for each; no word at all asks for the same."""
    assert command_line.main(["--help"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert len(lines) < LINES
    assert max(map(len, lines)) <= COLUMNS
    assert re.findall(r"(?m)^  (\w+) +\w", shown) == list(COMMANDS)
    assert command_line.main([]) == 0
    assert capsys.readouterr().out == shown


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """As `bundle` has it."""
    assert command_line.main(["--version"]) == 0
    assert capsys.readouterr().out == f"glyph {__version__}\n"


@pytest.mark.parametrize(
    ("word", "meant"), [("fitt", "fit"), ("train", "fit"), ("predcit", "predict"), ("ls", "list")]
)
def test_an_unknown_command_names_the_nearest(
    word: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its spelling, or by the word that other programs have for it."""
    assert command_line.main([word]) == 2
    assert capsys.readouterr().err == f"error: there is no command '{word}'; did you mean '{meant}'?\n"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command prints whose parser ends the process."""
    with pytest.raises(SystemExit) as end:
        command_line.main([*words])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_calls_itself_by_its_own_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In usage and examples; `glyph help NAME` is the same."""
    shown = printed(capsys, name, "--help")
    # `glyph check` is an option of the program that `glyph serve` is.
    assert shown.startswith(f"usage: glyph {'serve' if name == 'check' else name} ")
    assert set(re.findall(r"python -m (\w+)", shown)) <= {"bench"}
    assert printed(capsys, "help", name) == shown


@pytest.mark.parametrize(
    "program", ["training fit", "bundle verify", "serving", "serving.score", "serving.token"]
)
def test_by_python_every_program_calls_itself_as_before(program: str) -> None:
    """`python -m` stays, and says so."""
    done = subprocess.run(
        [sys.executable, "-m", *program.split(), "--help"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert done.stdout.startswith(f"usage: python -m {program} ")
    assert not re.search(r"\bglyph (fit|serve|score|token|verify)\b", done.stdout)


def test_names_of_programs_are_changed_in_whole_words_and_for_a_while() -> None:
    """A module below one of them is another program."""
    text = "python -m serving --check, python -m serving.score, python -m serving.reference; 'python -m training fit'."
    with called(NAMES):
        assert named(text) == "glyph serve --check, glyph score, python -m serving.reference; 'glyph fit'."
    assert named(text) == text


def test_exit_codes_and_sentences_are_the_programs(bundle: Bundle, tmp_path: Path) -> None:
    """Whatever they mean there; a remedy names the command."""
    assert error_of(glyph("fit", "--epochs", "none"), 2).startswith("--epochs: ")
    assert error_of(glyph("serve", GLYPH_PORTS=1), 2).startswith("unknown environment variable GLYPH_PORTS")
    assert "--input is required" in error_of(glyph("score", "--output", tmp_path), 2)
    assert "is not a valid name" in error_of(glyph("token", "a b"), 2)
    assert "there is no directory" in glyph("verify", tmp_path / "none" / "1").stderr.decode()
    assert glyph("verify", tmp_path / "none" / "1").returncode == 1
    listed = glyph("list", bundle.path.parent)
    assert (listed.returncode, listed.stdout[:2]) == (0, b"1\t")
    assert b"is intact" in glyph("verify", bundle.path).stdout


def test_remedies_name_the_command(tmp_path: Path) -> None:
    """Those of errors from deep below, too."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digit.png").write_bytes(png(a_digit()))
    (tmp_path / "tokens").write_text("nonsense\n")
    no_model = "train one with 'glyph fit', or give another directory"
    for words, code in (
        (["predict", "x.png", "--model", tmp_path], 70),
        (["score", "--input", tmp_path / "data", "--output", tmp_path / "out", "--model", tmp_path], 70),
    ):
        assert error_of(glyph(*words), code).endswith(no_model)
    assert "'glyph token NAME' makes such a line" in error_of(
        glyph("serve", GLYPH_TOKENS_FILE=tmp_path / "tokens"), 2
    )
    checked = glyph("check", "--model", tmp_path, GLYPH_PROVIDER="cpu")
    assert checked.returncode == 3
    assert "'glyph fit'" in checked.stderr.decode()


TORCH, RUNTIME, WEB = {"torch", "torchvision"}, {"onnxruntime"}, {"flask", "gunicorn", "werkzeug"}


@pytest.mark.parametrize(
    ("words", "absent", "code"),
    [
        (["--help"], TORCH | RUNTIME | WEB | {"numpy", "pydantic", "serving", "training"}, 0),
        (["list", "MODEL"], TORCH | RUNTIME | WEB | {"serving", "training", "rich", "urllib3"}, 0),
        (["verify", "MODEL/1"], TORCH | RUNTIME | WEB | {"serving", "training", "rich", "urllib3"}, 0),
        (["token", "till"], TORCH | RUNTIME | WEB | {"training", "PIL"}, 0),
        (["fit", "--help"], TORCH | RUNTIME | WEB | {"serving"}, 0),
        (["serve", "--help"], TORCH | RUNTIME | {"flask", "training"}, 0),
        (["score", "--help"], TORCH | RUNTIME | WEB | {"training"}, 0),
        (
            ["predict", "DIGIT", "--url", "http://127.0.0.1:1"],
            TORCH | RUNTIME | WEB | {"orjson", "training"},
            69,
        ),
        (["predict", "DIGIT", "--model", "MODEL"], TORCH | {"flask", "training", "urllib3"}, 0),
    ],
)
def test_a_command_imports_only_its_package(
    words: list[str], absent: set[str], code: int, bundle: Bundle, tmp_path: Path
) -> None:
    """Measured in a fresh process, by what it has loaded in the end."""
    (tmp_path / "digit.png").write_bytes(png(a_digit()))
    places = {"MODEL": str(bundle.path.parent), "DIGIT": str(tmp_path / "digit.png")}
    filled = [re.sub("MODEL|DIGIT", lambda word: places[word[0]], word) for word in words]
    ended, modules, _ = loaded(filled, GLYPH_PROVIDER="cpu")
    assert ended == code
    assert modules & absent == set()


@pytest.mark.parametrize(
    ("words", "hidden", "extra"),
    [
        (["fit", "--data", "none"], "torch", "training"),
        (["study", "all"], "torch", "training"),
        (["serve"], "gunicorn", "serving"),
        (["predict", "x.png"], "onnxruntime", "serving"),
        (["predict", "x.png", "--url", "http://127.0.0.1:1"], "urllib3", "client"),
    ],
)
def test_a_missing_package_is_one_sentence_with_its_extra(words: list[str], hidden: str, extra: str) -> None:
    """Where the command was installed without it; `python -m` shows Python's own error."""
    code, _, errors = loaded(words, hidden, GLYPH_PORT=21001, GLYPH_MANAGEMENT_PORT=0)
    assert code == EXIT_MISSING
    (line,) = errors.splitlines()
    assert line.startswith(f"error: 'glyph {words[0]}")
    assert f"needs the package {hidden}, which is not installed: pip install '" in line
    assert f"[{extra}]'" in line


def test_the_remedy_is_the_installed_glyph_or_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a clone, pip would look for another glyph; a fault of our own is no missing package."""
    with pytest.raises(MissingPackageError, match=r"pip install '\.\[training\]' in the clone"):
        _fail_to_import("torch.nn")
    monkeypatch.setattr(metadata, "distribution", lambda name: name)
    with pytest.raises(MissingPackageError, match=r"pip install 'glyph\[training\]'$"):
        _fail_to_import("torch.nn")
    with pytest.raises(MissingPackageError, match=r"needs the package training, which is not in this image$"):
        _fail_to_import("training")
    with pytest.raises(ModuleNotFoundError, match="no such module"):
        _fail_to_import("training.jbo")


def _fail_to_import(name: str) -> None:
    with needing("training", "fit"):
        raise ModuleNotFoundError("no such module", name=name)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list", "MODEL"], ["show", "MODEL/1"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(words: list[str], bundle: Bundle) -> None:
    """As SIGPIPE ends other programs: `glyph list ... | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as output:
        done = subprocess.run(
            command(*(word.replace("MODEL", str(bundle.path.parent)) for word in words)),
            cwd=ROOT,
            env=environment(),
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (EXIT_BROKEN_PIPE, b"")


def test_the_document_has_every_command_and_what_it_is() -> None:
    """The table in docs/operations.md."""
    rows = re.findall(r"(?m)^\| `glyph ([a-z]+)` \| `python -m ([^`]+)` \|", OPERATIONS)
    programs = {name: each.program for name, each in COMMANDS.items() if name != "predict"}
    assert dict(rows) == programs
    assert len(rows) == len(programs)


def test_the_document_has_the_exit_codes_of_predict() -> None:
    """Those that `glyph predict --help` lists."""
    section = OPERATIONS.partition("## The command")[2].partition("\n## ")[0]
    assert re.findall(r"(?m)^\| (\d+) \|", section) == re.findall(r"(?m)^  (\d+) ", _EPILOGUE)
