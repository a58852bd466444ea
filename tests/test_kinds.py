"""Every test is of one kind, by which it is chosen."""

from pathlib import Path

import pytest

from tests.conftest import KINDS, kind, whole


def test_every_test_is_of_one_kind(request: pytest.FixtureRequest) -> None:
    """Of those that were collected with this one."""
    for item in request.session.items:
        assert len([marker for marker in item.iter_markers() if marker.name in KINDS]) == 1, item.nodeid


@pytest.mark.parametrize(
    ("place", "name", "fixture", "expected"),
    [
        ("bundle/test_files.py", "subprocess", "tmp_path", "unit"),
        ("serving/test_bound.py", "a_digit", "digit", "unit"),
        ("serving/test_start.py", "running", "tmp_path", "service"),
        ("serving/test_images.py", "a_digit", "service", "service"),
        ("training/loop/test_fit.py", "fit", "tmp_path", "service"),
        ("browser/test_docs.py", "re", "page", "system"),
        ("k8s/test_make.py", "re", "tmp_path", "system"),
    ],
)
def test_the_kind_is_told_by_place_imports_and_fixtures(
    place: str, name: str, fixture: str, expected: str
) -> None:
    """A file that starts a service or trains, or whose fixtures do, has no unit tests."""
    assert kind(Path(place), ["pytest", name], ["request", fixture]) == expected


def test_what_shares_an_engine_or_a_service_is_run_by_one_process() -> None:
    """All images are built in one engine, which ends with the process; other files are run beside each other."""
    assert whole("tests/containers/test_pods.py") == whole("tests/containers/test_lint.py")
    assert whole("tests/browser/test_docs.py") == whole("tests/browser/test_files.py")
    assert whole("tests/k8s/test_code.py") == "tests/k8s/test_code.py"
