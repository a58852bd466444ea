"""What benches and tests share."""

from bench.support.processes import PORTS, free_port


def test_a_free_port_is_none_that_is_given_to_a_client() -> None:
    """Nor one that was returned before and that a service may not listen on yet."""
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == len(ports)
    assert set(ports) <= set(PORTS)
