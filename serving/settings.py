"""What an operator can set: one frozen class, read from `GLYPH_*` and from the command line."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bundle.configuration import CommaSeparated, Layer, OrNone, Settings, build, from_environment

ENVIRONMENT_PREFIX = "GLYPH_"
RESERVED = ("GLYPH_TRAIN_", "GLYPH_SCORE_")
"""Prefixes of variables that belong to the training job and to the batch scorer."""

Positive = Annotated[int, Field(ge=1)]


Origin = Annotated[str, Field(pattern=r"^(\*|https?://[a-z0-9.\-\[\]:_]+)$")]
"""What a browser sends as `Origin` (RFC 6454, section 6.2), or `*`."""


class ServiceSettings(Settings):
    """Settings of the service. `GLYPH_PORT` in the environment is `--port` on the command line."""

    model: Annotated[
        Path, Field(description="directory of the model, models/NAME, whose versions are served")
    ] = Path("models/mnist")
    version: Annotated[
        Positive | None, OrNone, Field(description="version to serve; none is the newest at start")
    ] = None
    provider: Annotated[
        Literal["auto", "cuda", "cpu"],
        Field(
            description="execution provider: 'cuda' ends the service if CUDA does not work, 'auto' "
            "takes CUDA if it works and the CPU else, and says which"
        ),
    ] = "auto"
    device_id: Annotated[int, Field(ge=0, description="which GPU, where CUDA is used")] = 0
    host: Annotated[str, Field(min_length=1, description="address to listen on; 0.0.0.0 is all of IPv4")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=1, le=65535, description="TCP port to listen on")] = 8080
    workers: Annotated[
        Positive | None,
        OrNone,
        Field(description="processes; none is one for each usable CPU, and 1 where CUDA is used"),
    ] = None
    threads: Annotated[int, Field(ge=1, le=1024, description="requests a process works on at once")] = 4
    max_body_bytes: Annotated[
        int, Field(ge=1024, le=1 << 30, description="largest request body; beyond it the answer is 413")
    ] = 8 << 20
    max_files: Annotated[
        int, Field(ge=1, le=65536, description="most files in one form; beyond it the answer is 413")
    ] = 256
    max_images: Annotated[
        int,
        Field(
            ge=1,
            le=65536,
            description="most images in one body of JSON, pixels, or tensors; beyond it the answer is 413",
        ),
    ] = 1024
    timeout_seconds: Annotated[
        int, Field(ge=1, description="a process that is silent for longer is replaced; loading counts")
    ] = 30
    graceful_timeout_seconds: Annotated[
        int, Field(ge=1, description="time that requests in flight get after SIGTERM")
    ] = 25
    keepalive_seconds: Annotated[
        int, Field(ge=1, description="how long an idle connection is kept; more than a load balancer's")
    ] = 75
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="least level that is logged")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        Field(description="how log lines are written: for people, or one JSON object each"),
    ] = "text"
    access_log: Annotated[bool, Field(description="log one line for each request, to stdout")] = False
    tracing: Annotated[
        Literal["off", "otlp"],
        Field(
            description="'otlp' sends a span of each request to a collector by OTLP over HTTP; the standard "
            "variables OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and so on say the rest"
        ),
    ] = "off"
    tokens_file: Annotated[
        Path | None,
        OrNone,
        Field(
            description="file of the hashes of bearer tokens ('python -m serving.token' makes a line of it); none "
            "asks nobody for a token. It is read again when it changes"
        ),
    ] = None
    docs_token: Annotated[
        bool, Field(description="ask for a token on /docs and /openapi.json too, where there are tokens")
    ] = False
    metrics_token: Annotated[
        bool, Field(description="ask for a token on /metrics too, where there are tokens")
    ] = False
    cors_origins: Annotated[
        tuple[Origin, ...],
        CommaSeparated,
        Field(
            description="origins whose pages may ask this service from a browser, as https://app.example.org, "
            "separated by commas; '*' is every origin, none is only the service's own page"
        ),
    ] = ()


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """Return the settings in `environment`.

    Raises:
        ConfigurationError: a `GLYPH_` variable names no setting; it says which is nearest.
    """
    return from_environment(ServiceSettings, environment, ENVIRONMENT_PREFIX, RESERVED)


def load_settings(environment: Mapping[str, str] | None = None) -> ServiceSettings:
    """Return the settings of `environment`, by default the process's own.

    Raises:
        ConfigurationError: a variable is unknown, or its value is not allowed.
    """
    return build(ServiceSettings, [environment_layer(os.environ if environment is None else environment)])
