"""One service with two workers and a management port, for the tests that change nothing."""

from collections.abc import Iterator

import pytest

from bench.support.management import Managed, await_, managed
from bundle.repository import Bundle

DOORS = ("inference", "gthread")


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    """Return the setting `worker`: every test that takes it is run through both doors."""
    return str(request.param)


@pytest.fixture(scope="session", params=DOORS)
def pod(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Managed]:
    """Return a service whose two workers are ready."""
    directory = tmp_path_factory.mktemp("pod")
    with managed(directory, model=bundle.path.parent, workers=2, worker=request.param) as started:
        await_(lambda: started.ask("/readyz").json()["workers"] == {"ready": 2})
        yield started
