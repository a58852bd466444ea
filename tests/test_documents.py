"""What the documents point at is there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from bench.__main__ import BENCHES

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    """Files and folders of the code, in backticks, and links to other documents."""
    text = document.read_text()
    named = re.findall(
        r"`((?:bench|bundle|common|docs|glyph|imagesets|lock|serving|tests|training)/[\w/.-]*)`", text
    )
    linked = [document.parent / link for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)]
    missing = [path for path in [*(ROOT / name for name in named), *linked] if not path.exists()]
    assert missing == []


def sections(document: Path) -> set[str]:
    """Return the names by which a document's headings are linked to: lower case, hyphens, no punctuation."""
    headings = re.findall(r"(?m)^#+ (.*)$", document.read_text())
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_section_that_a_document_links_to_exists(document: Path) -> None:
    """In the document itself, or in another one."""
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", document.read_text())
    linked = [(document.parent / path if path else document, name) for path, name in links]
    assert [(path, name) for path, name in linked if name not in sections(path)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_bench_that_a_document_names_exists(document: Path) -> None:
    """`python -m bench` lists it, and tests/bench/test_running.py starts it with what `make run` installs."""
    assert set(re.findall(r"python -m bench ([\w-]+)", document.read_text())) <= set(BENCHES)


def test_the_readme_begins_with_what_is_to_be_seen() -> None:
    """The page and a report, as pictures of a size to read them at; `python -m docs.pictures` takes them anew."""
    top = "\n".join((ROOT / "README.md").read_text().splitlines()[:16])
    shown = {name for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", top) if name.endswith(".png")}
    assert shown == {"docs/page.png", "docs/report.png"}
    for name in shown:
        with Image.open(ROOT / name) as picture:
            assert min(picture.size) > 1000
            assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 16
        assert (ROOT / name).stat().st_size < 150_000


def test_the_index_names_every_document() -> None:
    """Pages of decisions too; a page that nobody finds is read by nobody."""
    index = ROOT / "docs" / "index.md"
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", index.read_text())
    named = {(index.parent / link).resolve() for link in linked}
    assert {page for page in DOCUMENTS if page.parent != ROOT and page != index} - named == set()


def test_every_test_of_the_threat_model_exists() -> None:
    """A name without a folder is of the folder of the path before it in the same line."""
    for line in (ROOT / "docs" / "security.md").read_text().splitlines():
        folder = ROOT
        for name in re.findall(r"`((?:tests/[\w/]*)?test_\w+\.py)`", line):
            path = ROOT / name if "/" in name else folder / name
            assert path.exists(), line
            folder = path.parent


def test_the_picture_of_the_architecture_is_what_its_program_draws() -> None:
    """Arrows and words too; `python docs/architecture.py` draws it anew."""
    command = [sys.executable, str(ROOT / "docs" / "architecture.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_boxes_of_the_architecture_are_the_folders() -> None:
    """Every package, and every folder of one, has a box of its name, and there is no other."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    packages = [pattern.rstrip("*") for pattern in tools["setuptools"]["packages"]["find"]["include"]]
    folders = [path.parent.name for name in packages for path in ROOT.glob(f"{name}/*/__init__.py")]
    picture = ET.parse(ROOT / "docs" / "architecture.svg")  # noqa: S314  our own
    words = picture.iterfind(".//{*}text[@class='name']")
    assert sorted(str(word.text) for word in words) == sorted(f"{name}/" for name in [*packages, *folders])
