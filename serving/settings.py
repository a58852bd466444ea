"""What an operator can set: one frozen class, read from `GLYPH_*` and from the command line."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from common.configuration import CommaSeparated, Layer, OrNone, Settings, build, from_environment

ENVIRONMENT_PREFIX = "GLYPH_"
RESERVED = ("GLYPH_TRAIN_", "GLYPH_SCORE_")
"""Prefixes of variables that belong to the training job and to the batch scorer."""

Positive = Annotated[int, Field(ge=1)]


Origin = Annotated[str, Field(pattern=r"^(\*|https?://[a-z0-9.\-\[\]:_]+)$")]
"""What a browser sends as `Origin` (RFC 6454, section 6.2), or `*`."""


ALL_ADDRESSES = ("*", "::")
"""Hosts that mean every address of the machine, of IPv4 and of IPv6."""
UNIX_PATH_BYTES = 107
"""Longest path of a UNIX socket: `sun_path` has 108 bytes, and one ends it (unix(7))."""


def unix_path(host: str) -> Path | None:
    """Return the path of the UNIX socket that a host names; None if it is an address of TCP."""
    return Path(host.removeprefix("unix:").removeprefix("//")) if host.startswith("unix:") else None


def _check_host(host: str) -> str:
    path = unix_path(host)
    if path is not None and not path.is_absolute():
        raise ValueError("a UNIX socket is named by its absolute path, as in unix:/run/glyph/http.sock")
    if path is not None and (size := len(os.fsencode(path))) > UNIX_PATH_BYTES:
        raise ValueError(
            f"the path of a UNIX socket has at most {UNIX_PATH_BYTES} bytes, and this one {size}"
        )
    return host


def _check_tcp_host(host: str) -> str:
    if unix_path(host) is not None:
        raise ValueError("the management port is one of TCP: give an address, as 127.0.0.1")
    return host


class ServiceSettings(Settings):
    """Settings of the service. `GLYPH_PORT` in the environment is `--port` on the command line."""

    model: Annotated[
        Path, Field(description="directory of the model, models/NAME, whose versions are served")
    ] = Path("models/mnist")
    version: Annotated[
        Positive | None,
        OrNone,
        Field(description="version to serve and stay with; none is the newest, also as it changes"),
    ] = None
    provider: Annotated[
        Literal["auto", "cuda", "cpu"],
        Field(
            description="execution provider: 'cuda' ends the service if CUDA does not work, 'auto' "
            "takes CUDA if it works and the CPU else, and says which. CUDA needs NVIDIA's driver 580 or newer"
        ),
    ] = "auto"
    device_id: Annotated[int, Field(ge=0, description="which GPU, where CUDA is used")] = 0
    cuda_graphs: Annotated[
        bool,
        Field(
            description="whether CUDA replays one captured graph for each size of a batch, in buffers that stay, "
            "instead of starting kernel after kernel; one thread then runs all. Not yet run on a GPU "
            "('python -m bench gpu' measures it), so off"
        ),
    ] = False
    cudnn: Annotated[
        bool,
        Field(
            description="whether CUDA uses cuDNN. No operator of the model should need it, which no GPU has shown "
            "yet; 'false' is for an image without it (Dockerfile.serve, --build-arg CUDNN=false)"
        ),
    ] = True
    arithmetic: Annotated[
        Literal["auto", "float32", "integer"],
        Field(
            description="how the CPU computes the first layer: 'auto' takes integers for batches of more than "
            "8 images where the processor has AMX and the version a graph for it, and float32 else. An answer's "
            "last digits can then differ by its batch; with 'float32' or 'integer' they do not. 'integer' refuses "
            "a version without that graph. CUDA computes in float32"
        ),
    ] = "auto"
    host: Annotated[
        str,
        AfterValidator(_check_host),
        Field(
            min_length=1,
            description="address to listen on; '*' is every one of IPv4 and IPv6, unix:/run/glyph/http.sock a "
            "UNIX socket, 0.0.0.0 all of IPv4",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, Field(ge=1, le=65535, description="TCP port to listen on; a UNIX socket has none")
    ] = 8080
    management_host: Annotated[
        str,
        AfterValidator(_check_tcp_host),
        Field(
            min_length=1,
            description="address of the management port, '*' is every one; probes must be able to reach it",
        ),
    ] = "127.0.0.1"
    management_port: Annotated[
        Annotated[int, Field(ge=0, le=65535)] | None,
        OrNone,
        Field(
            description="TCP port of /livez, /readyz and /metrics, answered by a process of their own "
            "whatever the load; none is the one after the port, 0 is no such port"
        ),
    ] = None
    reload_seconds: Annotated[
        float,
        Field(ge=0, le=86400, description="how often new versions are looked for; 0 is at start only"),
    ] = 10.0
    kept_versions: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="versions that stay loaded after a newer one took their place, for requests that name them",
        ),
    ] = 1
    drift_window_seconds: Annotated[
        float,
        Field(ge=60, le=604800, description="how far back glyph_drift_psi looks"),
    ] = 3600.0
    workers: Annotated[
        Positive | None,
        OrNone,
        Field(
            description="processes; none is one for each usable CPU, and 1 where CUDA is used, which no GPU has "
            "measured yet"
        ),
    ] = None
    worker: Annotated[
        Literal["inference", "gthread"],
        Field(
            description="how a process serves: 'inference' is an event loop that runs what has arrived as one "
            "batch; 'gthread' is Gunicorn's own threads, each of which runs one request, and leaves slow clients "
            "to the proxy in front"
        ),
    ] = "inference"
    threads: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description="threads of a process for pages, probes and large bodies: how many it works on at once; "
            "gthread: for predictions",
        ),
    ] = 4
    connections: Annotated[
        int,
        Field(
            ge=8,
            le=1 << 20,
            description="most connections of a process; beyond it the longest idle is closed for a new one",
        ),
    ] = 4096
    queue_limit: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 20,
            description="most predictions that wait in a process, and apart from them most other requests; beyond "
            "it the answer is 503 with Retry-After",
        ),
    ] = 512
    queue_bytes: Annotated[
        int,
        Field(
            ge=1 << 20,
            description="most bytes of requests and untaken answers that a process holds, half of them for one "
            "client's address; beyond it the answer is 503 with Retry-After",
        ),
    ] = 256 << 20
    request_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="the longest that a prediction waits; X-Request-Timeout-Ms asks for less. Then the "
            "answer is 504 and nothing is computed",
        ),
    ] = 30.0
    header_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="time for a request's head, from its first byte to its last; not for gthread",
        ),
    ] = 10.0
    body_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="time for a request's body, from the head to the last byte; not for gthread",
        ),
    ] = 30.0
    write_timeout_seconds: Annotated[
        float,
        Field(
            gt=0, le=3600, description="time in which a client has to take some of an answer; not for gthread"
        ),
    ] = 30.0
    max_requests: Annotated[
        int, Field(ge=0, description="requests after which a process is replaced, give or take; 0 is never")
    ] = 0
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
        int,
        Field(
            ge=1,
            description="a process that is silent for longer is replaced; one that loads gets 120, or this if "
            "it is more",
        ),
    ] = 30
    graceful_timeout_seconds: Annotated[
        int, Field(ge=1, description="time that requests in flight get after SIGTERM")
    ] = 25
    tls_certificate: Annotated[
        Path | None,
        OrNone,
        Field(description="PEM file of the certificate and its chain; none is plain HTTP"),
    ] = None
    tls_key: Annotated[Path | None, OrNone, Field(description="PEM file of the certificate's key")] = None
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


def management_port(settings: ServiceSettings) -> int:
    """Return the management port that the settings mean; 0 is none."""
    if settings.management_port is None:
        return (settings.port + 1) % 65536
    return settings.management_port


_SERVICE_LINK = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def is_service_link(name: str, value: str) -> bool:
    """Tell a variable that Kubernetes made of a Service called `glyph` or `glyph-...` from a setting.

    It gives them to every container (kubernetes.io/docs/concepts/services-networking/service,
    Environment variables). Of `GLYPH_PORT` and `GLYPH_..._PORT` only the value tells.
    """
    if not name.startswith(ENVIRONMENT_PREFIX):
        return False
    rest = name.removeprefix(ENVIRONMENT_PREFIX)
    if rest == "PORT" or rest.endswith("_PORT"):
        return _ADDRESS.match(value) is not None or rest.endswith(("SERVICE_PORT", "_TCP_PORT", "_UDP_PORT"))
    return _SERVICE_LINK.fullmatch(rest) is not None


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """Return the settings in `environment`, which may have a Kubernetes Service's variables beside them.

    Raises:
        ConfigurationError: a `GLYPH_` variable names no setting; it says which is nearest.
    """
    own = {name: value for name, value in environment.items() if not is_service_link(name, value)}
    return from_environment(ServiceSettings, own, ENVIRONMENT_PREFIX, RESERVED)


def load_settings(environment: Mapping[str, str] | None = None) -> ServiceSettings:
    """Return the settings of `environment`, by default the process's own.

    Raises:
        ConfigurationError: a variable is unknown, or its value is not allowed.
    """
    return build(ServiceSettings, [environment_layer(os.environ if environment is None else environment)])
