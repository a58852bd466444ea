"""Settings beside the variables that Kubernetes makes of Services."""

import pytest

from common.errors import ConfigurationError
from serving.settings import is_service_link, load_settings, management_port

# What a container sees of a Service `glyph` with the ports 8080 and `metrics` 8081, as
# kubernetes.io/docs/concepts/services-networking/service (Environment variables) has it.
LINKS = {
    "GLYPH_SERVICE_HOST": "10.0.0.11",
    "GLYPH_SERVICE_PORT": "8080",
    "GLYPH_SERVICE_PORT_METRICS": "8081",
    "GLYPH_PORT": "tcp://10.0.0.11:8080",
    "GLYPH_PORT_8080_TCP": "tcp://10.0.0.11:8080",
    "GLYPH_PORT_8080_TCP_PROTO": "tcp",
    "GLYPH_PORT_8080_TCP_PORT": "8080",
    "GLYPH_PORT_8080_TCP_ADDR": "10.0.0.11",
    # and of a Service `glyph-management`
    "GLYPH_MANAGEMENT_SERVICE_HOST": "10.0.0.12",
    "GLYPH_MANAGEMENT_SERVICE_PORT": "8081",
    "GLYPH_MANAGEMENT_PORT": "tcp://10.0.0.12:8081",
    "GLYPH_MANAGEMENT_PORT_8081_TCP": "tcp://10.0.0.12:8081",
}


def test_the_variables_of_services_are_no_settings() -> None:
    """The service starts with its defaults, and with what is set beside them."""
    assert all(is_service_link(name, value) for name, value in LINKS.items())
    settings = load_settings(LINKS)
    assert (settings.port, management_port(settings)) == (8080, 8081)
    chosen = load_settings(LINKS | {"GLYPH_PORT": "9000", "GLYPH_HOST": "0.0.0.0"})
    assert (chosen.port, chosen.host) == (9000, "0.0.0.0")


def test_the_management_port_is_the_one_after_the_port() -> None:
    """So that two services on two ports do not meet on a third; 0 is none, and so is the one after the last."""
    for chosen, expected in (
        ({}, 8081),
        ({"GLYPH_PORT": "9000"}, 9001),
        ({"GLYPH_PORT": "9000", "GLYPH_MANAGEMENT_PORT": "80"}, 80),
        ({"GLYPH_MANAGEMENT_PORT": "0"}, 0),
        ({"GLYPH_PORT": "65535"}, 0),
    ):
        assert management_port(load_settings(chosen)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GLYPH_PROT", "9000"),
        ("GLYPH_MANAGEMNT_PORT", "9000"),
        ("GLYPH_HOSTPORT", "9000"),
        ("GLYPH_SERVICE", "x"),
    ],
)
def test_a_typing_error_is_not_taken_for_a_service(name: str, value: str) -> None:
    """It ends the service, with the nearest name."""
    with pytest.raises(ConfigurationError, match=f"unknown environment variable {name}"):
        load_settings({name: value})
    with pytest.raises(ConfigurationError, match="GLYPH_PORT"):
        load_settings({"GLYPH_PORT": "eighty"})
