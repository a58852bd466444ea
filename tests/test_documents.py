"""What the documents point at is there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    """Files and folders of the code, in backticks, and links to other documents."""
    text = document.read_text()
    named = re.findall(r"`((?:bench|bundle|docs|lock|serving|tests|training)/[\w/.-]*)`", text)
    linked = [document.parent / link for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)]
    missing = [path for path in [*(ROOT / name for name in named), *linked] if not path.exists()]
    assert missing == []


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
