"""Every rendered manifest, and the Dockerfiles, by checkov's rules: another's reading of the restricted profile."""

import copy
import json
import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.k8s.rendering import CASES, overlay, pods

CHECKOV = Path(os.environ.get("CHECKOV", ROOT / ".venv-linters/bin/checkov"))
"""It wants versions of its own, so it has an environment of its own."""
EXCEPTIONS = {
    "CKV_K8S_15": "a pull policy other than Always lets pods start where images were loaded into the nodes (kind, "
    "minikube) and while the registry is down",
    "CKV_K8S_35": "clients of object stores read their keys from variables; with workload identity there is no Secret",
    "CKV_K8S_43": "a digest is known when an image has been pushed, and is then whoever deploys' to write; what is "
    "in the repository names versions",
    "CKV_DOCKER_2": "the training image is a job's: its exit code tells, and there is nothing to ask it",
    "CKV_DOCKER_7": "it takes the word of a build argument for a name without a version: ARG BASE has one",
}
"""Rules that are not kept, and why not."""
CONFINEMENT: dict[str, dict[str, Any]] = {
    "CKV_K8S_16": {"privileged": True},
    "CKV_K8S_20": {"allowPrivilegeEscalation": True},
    "CKV_K8S_22": {"readOnlyRootFilesystem": False},
    "CKV_K8S_23": {"runAsNonRoot": False, "runAsUser": 0},
    "CKV_K8S_25": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}},
    "CKV_K8S_28": {"capabilities": {"drop": ["CHOWN"]}},
    "CKV_K8S_31": {"seccompProfile": {"type": "Unconfined"}},
}
"""Rules that the restricted profile and a read-only root come to, and what breaks each."""
Found = dict[str, dict[str, set[str]]]

pytestmark = pytest.mark.skipif(
    not CHECKOV.exists(), reason=f"{CHECKOV} is missing: 'make linters' makes its environment"
)


def spoilt(change: dict[str, Any]) -> dict[str, Any]:
    """Return the Deployment with a change of what confines its pods."""
    document = copy.deepcopy(overlay("cpu", "serve").one("Deployment", "glyph"))
    spec = document["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    container["securityContext"] |= change
    for key in change.keys() & spec["securityContext"].keys():
        del spec["securityContext"][key]
    return document


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the files by outcome and rule; one run for all, since most of it is the start."""
    place = tmp_path_factory.mktemp("checkov")
    for number, case in enumerate(CASES.values()):
        (place / f"{number}.yaml").write_text(yaml.safe_dump_all(case().documents))
    for rule, change in CONFINEMENT.items():
        (place / f"spoilt-{rule}.yaml").write_text(yaml.safe_dump(spoilt(change)))
    for dockerfile in ROOT.glob("Dockerfile.*"):
        shutil.copy(dockerfile, place)
    done = subprocess.run(
        [
            *(CHECKOV, f"--directory={place}", "--framework", "kubernetes", "dockerfile"),
            *("--output=json", "--compact", "--skip-download"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    by_rule: Found = {"passed": defaultdict(set), "failed": defaultdict(set)}
    for report in json.loads(done.stdout):
        assert report["summary"]["parsing_errors"] == 0, report["results"]["parsing_errors"]
        for outcome, rules in by_rule.items():
            for check in report["results"][f"{outcome}_checks"]:
                rules[check["check_id"]].add(Path(check["file_path"]).name)
    return by_rule


def test_no_rule_is_broken_without_a_reason(found: Found) -> None:
    """And none is excused that is not broken."""
    broken = {rule: files for rule, files in found["failed"].items() if any("spoilt" not in f for f in files)}
    assert broken.keys() == EXCEPTIONS.keys(), broken


def test_the_confinement_of_every_pod_was_looked_at(found: Found) -> None:
    """A rule that were never asked would never be broken."""
    with_pods = {f"{number}.yaml" for number, case in enumerate(CASES.values()) if list(pods(case()))}
    # checkov knows no TrainingRuntime.
    with_pods -= {f"{number}.yaml" for number, name in enumerate(CASES) if name.startswith("trainer")}
    for rule in CONFINEMENT:
        assert with_pods <= found["passed"][rule]
    assert {"Dockerfile.train", "Dockerfile.serve"} <= found["passed"]["CKV_DOCKER_3"]  # a user is set


@pytest.mark.parametrize("rule", CONFINEMENT)
def test_a_pod_that_is_less_confined_is_found(found: Found, rule: str) -> None:
    """By the rule that it breaks."""
    assert f"spoilt-{rule}.yaml" in found["failed"][rule]
