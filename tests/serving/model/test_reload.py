"""New versions: proven beside the old one, swapped in whole, or refused with the old one answering on."""

import os
import shutil
import stat
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.models import NO_GRAPH, a_linear, publish_synthetic
from bundle.manifest import MANIFEST_FILE, ONNX_FILE, Manifest
from bundle.repository import Bundle
from serving.errors import NotFoundError, NotReadyError
from serving.model import version_loader
from serving.model.reloader import Reloader
from serving.model.store import ModelStore
from serving.settings import ServiceSettings
from serving.telemetry.metrics import Metrics
from tests.bundle.hostile import restate


def start(bundle: Bundle, **settings: object) -> ModelStore:
    """Return a state that serves the newest version, or the pinned one."""
    return ModelStore.start(
        ServiceSettings.model_validate({"model": bundle.path.parent, "provider": "cpu", **settings})
    )


def served(state: ModelStore) -> int:
    """Return the version that is answered with."""
    return state.engine().bundle.version


def refused(state: ModelStore) -> dict[int, str]:
    """Return what `/readyz` says of versions that are not served."""
    return {refusal["version"]: refusal["reason"] for refusal in state.report()["refused"]}


def writable(path: Path) -> Path:
    """Make a published file, and its directory, writable again."""
    for one in (path.parent, path):
        one.chmod(one.stat().st_mode | stat.S_IWUSR)
    return path


def corrupt(bundle: Bundle) -> None:
    """Flip a bit in the middle of the graph."""
    path = writable(bundle.path / ONNX_FILE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def missing(bundle: Bundle) -> None:
    """Take a file away."""
    writable(bundle.path / ONNX_FILE).unlink()


def half(bundle: Bundle) -> None:
    """Leave half of the manifest, as a copy that was cut short."""
    path = writable(bundle.path / MANIFEST_FILE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def future(bundle: Bundle) -> None:
    """Seal the manifest as a newer Glyph would, with a schema that this one does not know."""
    restate(bundle.path, schema_version=2)


def publish_bad(models: Path, fault: str) -> Bundle:
    """Publish a version that must be refused."""
    if fault == "wrong shapes":
        return publish_synthetic(models, graph=a_linear().graph(batch=1))
    if fault == "golden mismatch":
        return publish_synthetic(models, golden_shift=0.001)
    if fault == "no graph":
        return publish_synthetic(models, graph=NO_GRAPH)
    bundle = publish_synthetic(models)
    faults: dict[str, Callable[[Bundle], None]]
    faults = {"corrupt": corrupt, "missing file": missing, "half a manifest": half, "future schema": future}
    faults[fault](bundle)
    return bundle


FAULTS = {
    "corrupt": "was changed after it was published",
    "missing file": "cannot be read",
    "half a manifest": "is not JSON",
    "future schema": "schema version 2",
    "wrong shapes": "fixed batch axis",
    "golden mismatch": "golden",
    "no graph": "cannot be loaded",
}


def test_a_newer_version_takes_over_and_the_older_one_still_answers_by_its_number(tmp_path: Path) -> None:
    """One look is enough; whoever holds the old engine goes on with it."""
    first = publish_synthetic(tmp_path)
    state = start(first)
    held = state.engine()
    publish_synthetic(tmp_path)
    state.load()
    assert served(state) == 2
    assert state.versions() == [1, 2]
    assert state.engine(1) is held
    assert state.engine(2) is state.engine()
    with pytest.raises(NotFoundError) as error:
        state.engine(3)
    assert "1, 2" in error.value.remedy


def test_no_more_versions_stay_loaded_than_are_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With none to be kept, the old one goes; with two, the third."""
    monkeypatch.setattr(version_loader, "prove", lambda *_: ("proven", ""))  # by no child: twelve are loaded
    for kept, expected in ((0, [4]), (1, [3, 4]), (2, [2, 3, 4])):
        models = tmp_path / str(kept)
        state = start(publish_synthetic(models), kept_versions=kept)
        for _ in range(3):
            publish_synthetic(models)
            state.load()
        assert state.versions() == expected


@pytest.mark.parametrize(("fault", "reason"), FAULTS.items())
def test_a_bad_version_is_refused_with_its_reason_and_the_old_one_answers_on(
    tmp_path: Path, fault: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in the log and on `/readyz`, which stays ready."""
    state = start(publish_synthetic(tmp_path))
    publish_bad(tmp_path, fault)
    state.load()
    assert served(state) == 1
    assert reason in refused(state)[2]
    assert state.report()["ready"] is True
    assert "version 2 failed verification: " in caplog.text
    assert reason in caplog.text
    assert "version 1 keeps serving" in caplog.text


def test_a_refused_version_is_tried_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing the same bytes again every ten seconds would prove nothing; a repair is noticed."""
    state = start(publish_synthetic(tmp_path))
    second = publish_synthetic(tmp_path)
    whole = (second.path / ONNX_FILE).read_bytes()
    corrupt(second)
    tries: list[int] = []
    opened = Bundle.open

    def counted(path: Path, trusted: Path | None, *, mounted: bool) -> Bundle:
        tries.append(1)
        return opened(path, trusted, mounted=mounted)

    monkeypatch.setattr(Bundle, "open", counted)
    for _ in range(3):
        state.load()
    assert len(tries) == 1
    (second.path / ONNX_FILE).write_bytes(whole)
    for _ in range(3):
        state.load()
    assert len(tries) == 2
    assert served(state) == 2
    assert refused(state) == {}


def test_the_newest_that_can_be_proven_is_served(tmp_path: Path) -> None:
    """A good version behind a bad one is not passed over, at start or later."""
    first = publish_synthetic(tmp_path)
    state = start(first)
    publish_synthetic(tmp_path)
    publish_bad(tmp_path, "corrupt")
    state.load()
    assert (served(state), list(refused(state))) == (2, [3])
    again = start(first)
    assert (served(again), list(refused(again))) == (2, [3])


def test_a_refusal_is_forgotten_when_it_no_longer_matters(tmp_path: Path) -> None:
    """A bad version is news until it is gone or a newer one is served."""
    state = start(publish_synthetic(tmp_path))
    bad = publish_bad(tmp_path, "corrupt")
    state.load()
    assert list(refused(state)) == [2]
    publish_synthetic(tmp_path)
    for _ in range(2):
        state.load()
    assert (served(state), refused(state)) == (3, {})
    worse = publish_bad(tmp_path, "corrupt")
    state.load()
    assert list(refused(state)) == [4]
    shutil.rmtree(worse.path)
    state.load()
    assert refused(state) == {}
    assert bad.path.exists()


def test_removing_the_served_version_rolls_back_to_the_one_before(tmp_path: Path) -> None:
    """What is no longer published is no longer served, once there is another that is."""
    first = publish_synthetic(tmp_path)
    second = publish_synthetic(tmp_path)
    state = start(first)
    assert served(state) == 2
    shutil.rmtree(second.path)
    state.load()
    assert served(state) == 1
    shutil.rmtree(first.path)
    state.load()
    assert served(state) == 1, "nothing else is there, so it goes on"


def test_damage_to_the_served_version_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    """What is in memory was proven; the files matter at the next start, and the report says so before it."""
    first = publish_synthetic(tmp_path)
    second = publish_synthetic(tmp_path)
    state = start(first)
    held = state.engine()
    path = second.path / ONNX_FILE
    whole, times = path.read_bytes(), path.stat()
    corrupt(second)
    state.load()
    assert state.engine() is held
    assert list(refused(state)) == [2]
    path.write_bytes(whole)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    state.load()
    assert state.engine() is held
    assert refused(state) == {}


def test_a_number_that_was_published_anew_is_loaded_anew(tmp_path: Path) -> None:
    """Its directory was removed and another took its place: the digest tells that it is another model."""
    first = publish_synthetic(tmp_path)
    state = start(first)
    shutil.rmtree(first.path)
    second = publish_synthetic(tmp_path, polarity="black-on-white")
    assert second.version == first.version
    state.load()
    assert state.engine().bundle.manifest.digest == second.manifest.digest
    assert state.versions() == [1]


def test_a_pinned_version_stays_whatever_is_published(tmp_path: Path) -> None:
    """Newer versions are not even looked at."""
    first = publish_synthetic(tmp_path)
    publish_synthetic(tmp_path)
    state = start(first, version=1)
    publish_bad(tmp_path, "corrupt")
    state.load()
    assert (served(state), refused(state)) == (1, {})


def test_a_pinned_version_that_is_not_there_yet_is_served_when_it_comes(tmp_path: Path) -> None:
    """Until then the service is not ready and says what there is instead."""
    state = start(publish_synthetic(tmp_path), version=2)
    with pytest.raises(NotReadyError, match="version 2 is not published"):
        state.report()
    publish_synthetic(tmp_path)
    state.load()
    assert served(state) == 2


def test_a_volume_that_is_empty_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    """Network volumes come and go; what is served stays, and so does what was said of it."""
    first = publish_synthetic(tmp_path)
    state = start(first)
    first.path.parent.rename(tmp_path / "away")
    state.load()
    assert served(state) == 1
    (tmp_path / "away").rename(first.path.parent)
    state.load()
    assert served(state) == 1
    assert refused(state) == {}


def test_a_draining_process_is_not_ready_and_still_has_its_engine(tmp_path: Path) -> None:
    """What has arrived is answered; who asks whether to send more is told no."""
    state = start(publish_synthetic(tmp_path))
    state.drain()
    with pytest.raises(NotReadyError, match="the service is ending"):
        state.report()
    assert state.engine().bundle.version == 1


def test_what_fails_in_a_way_that_nobody_foresaw_is_a_refusal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in a library that a new model meets must not end what serves the old one."""
    state = start(publish_synthetic(tmp_path))
    publish_synthetic(tmp_path)

    def broken(data: bytes) -> Manifest:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Manifest, "from_bytes", broken)
    state.load()
    assert "out of luck" in refused(state)[2]
    assert served(state) == 1


def test_metrics_given_to_the_state_are_the_ones_it_uses(tmp_path: Path) -> None:
    """They are the process's own, which another process reads."""
    metrics = Metrics()
    state = ModelStore.start(
        ServiceSettings(model=publish_synthetic(tmp_path).path.parent, provider="cpu"), metrics
    )
    assert state.metrics is metrics


def test_at_the_end_no_model_is_kept(tmp_path: Path, digit: npt.NDArray[np.uint8]) -> None:
    """Neither by the metrics: a session on a GPU must be freed before the interpreter ends."""
    state = start(publish_synthetic(tmp_path))
    engine = state.engine()
    state.metrics.batch(engine.bundle, digit[None], engine.infer(digit[None]).probabilities)
    session = weakref.ref(engine.session)
    del engine
    reloader = Reloader(state)
    reloader.start()
    assert session() is not None
    reloader.stop()
    assert session() is None
