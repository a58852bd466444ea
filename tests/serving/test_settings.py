"""Settings beside the variables that Kubernetes makes of Services."""

import socket
from pathlib import Path
from typing import Any

import pytest

from bench.support.processes import free_port
from bundle.repository import Bundle
from common.errors import ConfigurationError
from serving.scoring.settings import ScoreSettings
from serving.settings import ServiceSettings, is_service_link, load_settings, management_port
from serving.system.addresses import listen_problem
from serving.worker.rpc import installed

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


def test_the_directory_of_a_version_is_a_model_and_its_version(bundle: Bundle) -> None:
    """`GLYPH_MODEL=models/NAME/1` is `GLYPH_MODEL=models/NAME` with `GLYPH_VERSION=1`, for scorer and service alike."""
    version, model = str(bundle.path), bundle.path.parent
    for given in ({}, {"version": "1"}, {"version": "none"}):
        service = load_settings(
            {"GLYPH_MODEL": version} | {f"GLYPH_{k.upper()}": v for k, v in given.items()}
        )
        scorer = ScoreSettings.model_validate({"input": ["x"], "output": "y", "model": version} | given)
        assert (service.model, service.version) == (scorer.model, scorer.version) == (model, 1)
    for other in (str(model), str(model.parent / "1")):
        assert load_settings({"GLYPH_MODEL": other}).version is None
    with pytest.raises(
        ConfigurationError, match=r"version: 2 is not the version of the model .*/1: omit one"
    ):
        load_settings({"GLYPH_MODEL": version, "GLYPH_VERSION": "2"})


def test_a_file_of_a_version_is_refused_with_the_directory_to_give(bundle: Bundle, tmp_path: Path) -> None:
    """The graph is what people look for first."""
    (tmp_path / "other.onnx").touch()
    with pytest.raises(ConfigurationError, match=rf"give the version's directory, {bundle.path}$"):
        load_settings({"GLYPH_MODEL": str(bundle.path / "model.onnx")})
    with pytest.raises(ConfigurationError, match=r"other.onnx is a file: give the directory of a model"):
        load_settings({"GLYPH_MODEL": str(tmp_path / "other.onnx")})


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


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"worker": "gthread"}, "set GLYPH_WORKER=inference"),
        ({"host": "unix:/run/glyph.sock"}, "GLYPH_HOST is a UNIX socket"),
        ({"port": 9000}, "the port of HTTP or of management"),
        ({"port": 8999}, "the port of HTTP or of management"),
        ({"management_port": 9000}, "the port of HTTP or of management"),
    ],
)
def test_a_port_for_grpc_is_refused_where_nothing_could_answer(
    settings: dict[str, Any], sentence: str
) -> None:
    """At the start, with the setting to change."""
    ServiceSettings(grpc_port=9000)
    with pytest.raises(ValueError, match=sentence):
        ServiceSettings(grpc_port=9000, **settings)


def test_grpc_without_its_packages_is_refused_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the start, and only where there is a port for it."""
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    installed.check_installed(ServiceSettings())
    with pytest.raises(ConfigurationError, match=r"pip install 'glyph\[grpc\]'"):
        installed.check_installed(ServiceSettings(grpc_port=9000))


def test_a_port_for_grpc_that_is_taken_is_named() -> None:
    """With the setting that changes it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        problem = listen_problem(
            ServiceSettings(port=free_port(), grpc_port=taken.getsockname()[1], management_port=0)
        )
    assert problem is not None
    assert "GLYPH_GRPC_PORT" in problem
