"""What the documents point at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    """Paths below a folder of the code, in backticks, and links to other documents."""
    text = document.read_text()
    named = re.findall(r"`((?:bench|bundle|docs|lock|serving|tests|training)/[\w/.-]+\.\w+)`", text)
    linked = [document.parent / link for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)]
    missing = [path for path in [*(ROOT / name for name in named), *linked] if not path.exists()]
    assert missing == []


def test_every_test_of_the_threat_model_exists() -> None:
    """A name without a folder is of the folder of the path before it in the same line."""
    for line in (ROOT / "docs" / "security.md").read_text().splitlines():
        folder = ROOT
        for name in re.findall(r"`((?:tests/[\w/]*)?test_\w+\.py)`", line):
            path = ROOT / name if "/" in name else folder / name
            assert path.exists(), line
            folder = path.parent
