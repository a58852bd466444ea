"""The pods of the rendered manifests, run by podman: train, be evicted, go on, serve, score, on one volume.

What podman takes from a manifest is the container's: image, arguments, variables, user, capabilities,
read-only root, limits, volumes. A cluster's part is played by these tests: they evict, start again, number
the shares, ask the probes and give the volume to the group.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from tests.containers.cluster import Cluster, Runs, ask_probe, manifest, png, pod_of
from tests.containers.conftest import Image
from tests.containers.docker import Engine
from tests.containers.podman import Document, Playing, playable
from tests.idx_arrays import read_idx
from tests.k8s.rendering import in_bytes

PICTURES, PART_ROWS = 60, 16
"""What is scored: four parts, one for each share."""


@pytest.fixture(scope="module")
def serving(cluster: Cluster, engine: Engine, serve: Image, trained_by_pods: Runs) -> Iterator[Playing]:
    """Serve what was trained, from the same volume."""
    assert trained_by_pods.second.code == 0, trained_by_pods.second.log
    deployment = manifest("serve", "Deployment", "glyph")
    settings = manifest("serve", "ConfigMap", "glyph-serve")
    image = cluster.podman.load(engine, serve.tag)
    with cluster.podman.playing(settings, playable(deployment, image, variables={})) as pod:
        pod.await_(lambda: ask_probe(pod, "readinessProbe") == 200)
        yield pod


def rules(job: Document) -> dict[str, list[int]]:
    """Return the exit codes of each action of a Job's policy."""
    own = [rule for rule in job["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    return {rule["action"]: rule["onExitCodes"]["values"] for rule in own}


def test_an_eviction_in_the_middle_of_training_is_survived(trained_by_pods: Runs) -> None:
    """The pod ends within its grace by a code that the Job ignores; the next one goes on and publishes."""
    job = manifest("train", "Job", "glyph-train")
    assert trained_by_pods.evicted.code in rules(job)["Ignore"], trained_by_pods.evicted.log
    assert "epoch   3" in trained_by_pods.evicted.log
    assert "epoch  15" not in trained_by_pods.evicted.log
    assert trained_by_pods.second.code == 0, trained_by_pods.second.log
    assert "epoch   1 " not in trained_by_pods.second.log
    assert "epoch  15" in trained_by_pods.second.log
    assert "published /glyph/models/mnist/1" in trained_by_pods.second.log


def test_a_wrong_setting_fails_the_job_at_once(trained_by_pods: Runs) -> None:
    """By a code that the Job is not to try again."""
    assert trained_by_pods.wrong.code in rules(manifest("train", "Job", "glyph-train"))["FailJob"], (
        trained_by_pods.wrong.log
    )
    assert "GLYPH_TRAIN_EPOCHS" in trained_by_pods.wrong.log


def test_the_probes_are_answered(serving: Playing) -> None:
    """Startup, readiness and liveness, at the ports that the manifest names."""
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert ask_probe(serving, name) == 200


def test_a_posted_image_is_answered(serving: Playing, mnist_directory: Path) -> None:
    """By the model that the other pod trained_by_pods."""
    images = read_idx(mnist_directory / "t10k-images-idx3-ubyte", 3)
    labels = read_idx(mnist_directory / "t10k-labels-idx1-ubyte", 1)
    status, body = serving.ask(8080, "/predict", png(images[0]))
    assert (status, json.loads(body)["predictions"][0]["label"]) == (200, str(labels[0]))


def test_the_pod_is_confined_as_it_says(serving: Playing) -> None:
    """The kernel's account of its first process, and what it may not write."""
    security = pod_of(manifest("serve", "Deployment", "glyph"))["securityContext"]
    done = serving.execute("cat", "/proc/1/status")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    status = {name: text.split() for name, _, text in (line.partition(":") for line in lines)}
    assert set(status["Uid"]) == {str(security["runAsUser"])}
    assert set(status["Gid"]) == {str(security["runAsGroup"])}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind][0], 16) == 0
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"]
    for path in ("/new", "/opt/glyph/new", "/glyph/new", "/glyph/models/mnist/1/new"):
        assert "Read-only file system" in serving.execute("touch", path).stderr
    (container,) = pod_of(manifest("serve", "Deployment", "glyph"))["containers"]
    host = serving.podman.inspect("container", serving.name)["HostConfig"]
    assert host["Memory"] == in_bytes(container["resources"]["limits"]["memory"])


def test_scoring_in_shares_answers_every_picture_once(
    cluster: Cluster, engine: Engine, score: Image, trained_by_pods: Runs, mnist_directory: Path
) -> None:
    """Four numbered pods and one that merges, on the volume that was trained and served from."""
    assert trained_by_pods.second.code == 0
    images = read_idx(mnist_directory / "t10k-images-idx3-ubyte", 3)[:PICTURES]
    labels = read_idx(mnist_directory / "t10k-labels-idx1-ubyte", 1)[:PICTURES]
    (cluster.volume / "input").mkdir()
    (cluster.volume / "scores").mkdir()  # a cluster makes the subPath of a mount
    for number, image in enumerate(images):
        (cluster.volume / "input" / f"{number:05d}.png").write_bytes(png(image))
    cluster.give()
    job, merging = (manifest("score", "Job", name) for name in ("glyph-score", "glyph-score-merge"))
    settings = manifest("score", "ConfigMap", "glyph-score")
    name = cluster.podman.load(engine, score.tag)
    for index in range(job["spec"]["completions"]):
        variables = {"JOB_COMPLETION_INDEX": str(index), "GLYPH_SCORE_PART_ROWS": str(PART_ROWS)}
        with cluster.podman.playing(settings, playable(job, name, variables=variables)) as pod:
            share = pod.ended()
            assert share.code == 0, share.log
    assert not (cluster.volume / "scores" / "_SUCCESS").exists()
    with cluster.podman.playing(settings, playable(merging, name, variables={})) as pod:
        merged = pod.ended()
    assert merged.code == 0, merged.log
    assert (cluster.volume / "scores" / "_SUCCESS").exists()
    table = pyarrow.parquet.read_table(cluster.volume / "scores").to_pydict()
    found = {Path(row).name: label for row, label in zip(table["row"], table["label"], strict=True)}
    assert sorted(found) == [f"{number:05d}.png" for number in range(PICTURES)]
    answers = np.array([int(found[f"{number:05d}.png"]) for number in range(PICTURES)])
    assert (answers == labels).mean() > 0.9


def test_the_service_ends_by_itself_within_its_grace(serving: Playing) -> None:
    """SIGTERM ends it with 0, long before SIGKILL; the last test, because nobody answers after it."""
    ended = serving.stop(pod_of(manifest("serve", "Deployment", "glyph"))["terminationGracePeriodSeconds"])
    assert ended.code == 0, ended.log
