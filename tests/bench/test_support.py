"""What benches and tests share."""

import subprocess
import sys

from bench.support.processes import MAX_RESERVED, PORTS, ROOT, free_port


def test_a_free_port_is_none_that_is_given_to_a_client() -> None:
    """Nor one that was returned before and that a service may not listen on yet."""
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == len(ports)
    assert set(ports) <= set(PORTS)


def test_a_free_port_is_none_that_another_process_has_been_given() -> None:
    """It may not listen there yet: of as many ports as there are, the other process finds only the rest."""
    ours = [free_port() for _ in range(MAX_RESERVED)]
    program = (
        "import itertools; from bench.support import processes; "
        f"processes._PORTS = itertools.chain({ours!r}, processes._PORTS); print(processes.free_port())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) not in ours
