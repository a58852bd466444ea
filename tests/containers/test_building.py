"""How the images are built: from what, in which order, and by which targets."""

import json
import shutil
import subprocess
from pathlib import Path

from bundle import __version__
from tests.conftest import ROOT
from tests.containers.conftest import Image
from tests.containers.docker import Engine

CONTEXT = {"LICENSE", "bundle", "common", "glyph", "imagesets", "serving", "training", "lock"}


def test_a_build_sees_the_code_and_the_locks_only(engine: Engine, tmp_path: Path) -> None:
    """Data, models, environments and .git stay out of it."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    engine.docker(
        "buildx", "build", f"--output=type=local,dest={tmp_path / 'seen'}", f"--file={dockerfile}", ROOT
    )
    seen = tmp_path / "seen"
    assert {path.name for path in seen.iterdir()} == CONTEXT
    assert not list(seen.rglob("__pycache__"))


def test_a_change_of_code_changes_one_layer(engine: Engine, serve: Image, tmp_path: Path) -> None:
    """The packages, which are nearly all of an image, are neither installed nor pulled again."""
    for name in CONTEXT:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    for name in ("Dockerfile.serve", ".dockerignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    with (tmp_path / "serving" / "__init__.py").open("a") as file:
        file.write("CHANGED = True\n")
    changed = engine.build(
        "Dockerfile.serve", "glyph-test-changed:cpu", "--build-arg=DEVICE=cpu", context=tmp_path
    )
    del engine.sizes[changed]
    before, after = (engine.inspect("image", tag)["RootFS"]["Layers"] for tag in (serve.tag, changed))
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


def test_bake_has_every_image(engine: Engine) -> None:
    """Targets build what is there, under the names that the manifests use, with the project's version."""
    done = subprocess.run(
        ["docker", "buildx", "bake", "--print"],
        cwd=ROOT,
        env=engine.environment | {"REGISTRY": "example.org/team/", "REVISION": "abc"},
        capture_output=True,
        check=True,
    )
    targets = json.loads(done.stdout)["target"]
    names = {"train": "glyph-train:latest"} | {
        f"{program}-{device}": f"glyph-{program}:{device}"
        for program in ("serve", "score")
        for device in ("cpu", "cuda")
    }
    assert {name: target["tags"][0] for name, target in targets.items()} == {
        name: f"example.org/team/{tag}" for name, tag in names.items()
    }
    for target in targets.values():
        text = (ROOT / target["dockerfile"]).read_text()
        assert all(f"ARG {argument}" in text for argument in target["args"])
        assert f" AS {target.get('target', 'train')}\n" in text
        assert (target["args"]["VERSION"], target["args"]["REVISION"]) == (__version__, "abc")
        assert target["attest"] == ["type=provenance,mode=max", "type=sbom"]
    both = ["linux/amd64", "linux/arm64"]
    assert {name: target["platforms"] for name, target in targets.items()} == {
        name: both[:1] if name.endswith("cuda") else both for name in names
    }


def test_make_images_builds_what_it_says(engine: Engine, serve: Image) -> None:
    """`make images` builds the same layers, with the version, the commit and the registry in their places."""
    engine.make_images("serve-cpu", "example.org/team/")
    made = engine.inspect("image", "example.org/team/glyph-serve:cpu")
    assert made["RootFS"]["Layers"] == engine.inspect("image", serve.tag)["RootFS"]["Layers"]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    labels = made["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"].removesuffix("+changes") == commit.stdout.strip()
    assert labels["org.opencontainers.image.version"] == __version__
