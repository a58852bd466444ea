"""`make train-job`, `make deploy` and `make score-job`, with a kubectl that writes down what it is asked."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.k8s.rendering import KUBECTL, OVERLAYS, PARTS

NOBODY = "http://127.0.0.1:9"
"""The port of discard (RFC 863), where no API server is."""
DOUBLE = """\
#!/bin/sh
echo "$*" >>"{log}"
{kubectl} "$@" --server={nobody} 2>>"{log}.$1"
case "$1" in get) echo "{finished}" ;; esac
"""


def make(
    tmp_path: Path, *words: str, finished: str = "SuccessCriteriaMet Complete", real: str | Path = ":"
) -> list[list[str]]:
    """Run make in a copy of what it needs, and return the words of each call of kubectl."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    log, kubectl = tmp_path / "log", tmp_path / "kubectl"
    kubectl.write_text(DOUBLE.format(log=log, finished=finished, kubectl=real, nobody=NOBODY))
    kubectl.chmod(0o755)
    run = subprocess.run(
        ["make", *words, f"KUBECTL={kubectl}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    ("target", "part"), [("train-job", "train"), ("deploy", "serve"), ("score-job", "score")]
)
def test_a_target_applies_the_shared_part_and_its_own(
    tmp_path: Path, overlay: str, target: str, part: str
) -> None:
    """Of the overlay that was asked for, in this order."""
    calls = make(tmp_path, target, f"OVERLAY={overlay}")
    applied = [call[2] for call in calls if call[0] == "apply"]
    assert applied == [f"k8s/overlays/{overlay}/common", f"k8s/overlays/{overlay}/{part}"]
    assert part in PARTS
    assert all((ROOT / path).is_dir() for path in applied)


@pytest.mark.parametrize("finished", ["SuccessCriteriaMet Complete", "FailureTarget Failed"])
def test_scoring_is_merged_when_its_shares_have_ended(tmp_path: Path, finished: str) -> None:
    """However they ended: merging tells whether a part is missing."""
    calls = make(tmp_path, "score-job", finished=finished)
    verbs = [call[0] for call in calls]
    assert verbs == ["apply", "delete", "apply", "get", "patch", "wait"]
    assert calls[1][1:4] == ["job", "glyph-score", "glyph-score-merge"]
    assert calls[4][1:3] == calls[5][1:3] == ["job", "glyph-score-merge"]


def test_kubectl_understands_what_it_is_asked(tmp_path: Path) -> None:
    """The real one reads every call and every manifest, and lacks nothing but an API server."""
    for target in ("train-job", "deploy", "score-job"):
        place = tmp_path / target
        place.mkdir()
        verbs = {call[0] for call in make(place, target, real=KUBECTL)}
        for verb in verbs:
            said = (place / f"log.{verb}").read_text()
            assert "refused" in said
            assert not {"unknown", "usage", "invalid"} & set(re.findall(r"\w+", said)), said


def test_a_registry_is_written_once_for_all(tmp_path: Path) -> None:
    """Every image of every overlay comes from there, also when it is changed again."""
    for registry in ("registry.example.org/team/", "localhost:5000/"):
        shutil.rmtree(tmp_path / "k8s", ignore_errors=True)
        make(tmp_path, "deploy", f"REGISTRY={registry}")
        for overlay in OVERLAYS:
            document = yaml.safe_load(
                (tmp_path / "k8s" / "overlays" / overlay / "images" / "kustomization.yaml").read_text()
            )
            for image in document["images"]:
                assert image["newName"] == registry + image["name"]


def test_readers_are_told_the_same_lines(tmp_path: Path) -> None:
    """docs/kubernetes.md shows the kubectl lines that the targets run."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    for target in ("train-job", "deploy"):
        shutil.rmtree(tmp_path / "k8s", ignore_errors=True)
        (tmp_path / "log").unlink(missing_ok=True)
        for call in make(tmp_path, target):
            assert "kubectl " + " ".join(call) in text
