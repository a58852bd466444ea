"""The service's settings: one frozen class, read from environment variables `GLYPH_*` and from the command line."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bundle.version_paths import has_model, with_version
from common.atomic_files import sha256_bytes
from common.configuration import CommaSeparated, Layer, OrNone, Settings, build, from_environment
from common.store_urls import path_or_url

ENVIRONMENT_PREFIX = "GLYPH_"
RESERVED = ("GLYPH_TRAIN_", "GLYPH_SCORE_")
"""Prefixes of variables that belong to the training job and to the batch scorer."""

Positive = Annotated[int, Field(ge=1)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[a-z0-9.\-\[\]:_]+)$")]
"""A value of the `Origin` field that browsers send (RFC 6454, section 6.2), or `*`."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$")]
"""A model's name as a client may choose it, such as that of an InferenceService of KServe."""
PLATFORM_VARIABLES: tuple[tuple[str, str], ...] = (
    ("port", "PORT"),  # cloud.google.com/run/docs/container-contract, devcenter.heroku.com/articles/dynos
    # cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements, Environment variables
    ("port", "AIP_HTTP_PORT"),
    ("health_route", "AIP_HEALTH_ROUTE"),
    ("predict_route", "AIP_PREDICT_ROUTE"),
    ("model", "AIP_STORAGE_URI"),
)
"""Settings, and the variables by which platforms set them; later ones take precedence, and `GLYPH_...` before all."""
SAGEMAKER_MODEL = Path("/opt/ml/model")
"""Where SageMaker unpacks model.tar.gz (docs.aws.amazon.com/sagemaker, Use Your Own Inference Code with Hosting
Services)."""
ALL_ADDRESSES = ("*", "::")
"""Hosts that mean all addresses of the machine, IPv4 and IPv6."""
UNIX_PATH_BYTES = 107
"""Maximum length of a UNIX socket's path: `sun_path` has 108 bytes, and the last is a null byte (unix(7))."""


def unix_path(host: str) -> Path | None:
    """Return the path of the UNIX socket that a host names; None if the host is a TCP address."""
    return Path(host.removeprefix("unix:").removeprefix("//")) if host.startswith("unix:") else None


def _check_host(host: str) -> str:
    path = unix_path(host)
    if path is not None and not path.is_absolute():
        raise ValueError("a UNIX socket needs an absolute path, as in unix:/run/glyph/http.sock")
    if path is not None and (size := len(os.fsencode(path))) > UNIX_PATH_BYTES:
        raise ValueError(
            f"the path of a UNIX socket may have at most {UNIX_PATH_BYTES} bytes, and this one has {size}"
        )
    return host


def _check_tcp_host(host: str) -> str:
    if unix_path(host) is not None:
        raise ValueError("the management port must be a TCP port: give an address, such as 127.0.0.1")
    return host


def _check_route(route: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._~/:@-]{0,1000}", route):
        raise ValueError(
            "a route is a path such as /v1/endpoints/1:predict: a slash, then letters, digits and ._~/:@-"
        )
    return route


Route = Annotated[str, AfterValidator(_check_route)]


class ServiceSettings(Settings):
    """The service's settings. `GLYPH_PORT` in the environment is `--port` on the command line."""

    model: Annotated[
        Path | str,
        BeforeValidator(path_or_url),
        Field(
            description="directory of the model to serve, models/NAME, which contains its versions, or of one "
            "version, models/NAME/VERSION; mounted elsewhere, it may have any name, or be below a directory that has "
            "nothing else; or a model or version in an object store, s3://BUCKET/models/NAME, gs:// or az:// "
            "(docs/object-storage.md)"
        ),
    ] = Path("models/mnist")
    served_name: Annotated[
        Name | None,
        OrNone,
        Field(
            description="name of the model in routes, answers and metrics; none is the name in its manifest"
        ),
    ] = None
    version: Annotated[
        Positive | None,
        OrNone,
        Field(
            description="version to serve; none serves the newest version, and each newer one once it is published"
        ),
    ] = None
    model_digest: Annotated[
        Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None,
        OrNone,
        Field(
            description="digest of the only manifest that is served, as 'python -m bundle show' prints it; none serves "
            "any version that is proven"
        ),
    ] = None
    scratch: Annotated[
        Path | None,
        OrNone,
        Field(
            description="directory that versions from an object store are fetched into, for this service's processes "
            "alone; none is glyph-UID in the temporary directory"
        ),
    ] = None
    scratch_bytes: Annotated[
        int,
        Field(
            ge=1 << 20,
            description="maximum number of bytes of the versions in GLYPH_SCRATCH; a version that has no room there "
            "beside the newest one is not fetched",
        ),
    ] = 2 << 30
    provider: Annotated[
        Literal["auto", "cuda", "cpu"],
        Field(
            description="execution provider: 'auto' uses CUDA if it works and otherwise the CPU, and logs which; "
            "'cuda' ends the service if CUDA does not work. CUDA needs NVIDIA driver 580 or newer"
        ),
    ] = "auto"
    device_id: Annotated[int, Field(ge=0, description="number of the GPU to use, where CUDA is used")] = 0
    cuda_graphs: Annotated[
        bool,
        Field(
            description="whether to capture a CUDA graph for each batch size and replay it, instead of launching each "
            "kernel; one thread then runs all inferences. Off by default, because it has not been run on a GPU yet "
            "('python -m bench gpu' measures it)"
        ),
    ] = False
    cudnn: Annotated[
        bool,
        Field(
            description="whether CUDA uses cuDNN. No operator of the model should need it, but that has not been "
            "tested on a GPU yet; 'false' is for an image without cuDNN (Dockerfile.serve, --build-arg CUDNN=false)"
        ),
    ] = True
    arithmetic: Annotated[
        Literal["auto", "float32", "integer"],
        Field(
            description="precision of the first layer on the CPU: 'auto' is exact integers if the processor has "
            "instructions for products of bytes (VNNI, AMX, Arm's dot products) and the version an integer graph, else "
            "float32. 'integer' rejects a version without that graph, and is slow on other processors. CUDA always "
            "computes in float32"
        ),
    ] = "auto"
    host: Annotated[
        str,
        AfterValidator(_check_host),
        Field(
            min_length=1,
            description="address to listen on; '*' means all addresses of IPv4 and IPv6, unix:/run/glyph/http.sock a "
            "UNIX socket, 0.0.0.0 all of IPv4",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(
            ge=1,
            le=65535,
            description="TCP port to listen on; not used with a UNIX socket. AIP_HTTP_PORT and PORT, in this order, "
            "set it as well",
        ),
    ] = 8080
    predict_route: Annotated[
        Route | None,
        OrNone,
        Field(
            description="path that answers like POST /predict, and to JSON with the member 'predictions' alone, as "
            "Vertex AI asks for it; AIP_PREDICT_ROUTE sets it as well"
        ),
    ] = None
    health_route: Annotated[
        Route | None,
        OrNone,
        Field(description="path that answers like GET /readyz; AIP_HEALTH_ROUTE sets it as well"),
    ] = None
    management_host: Annotated[
        str,
        AfterValidator(_check_tcp_host),
        Field(
            min_length=1,
            description="address of the management port; '*' means all addresses. Probes must be able to reach it",
        ),
    ] = "127.0.0.1"
    management_port: Annotated[
        Annotated[int, Field(ge=0, le=65535)] | None,
        OrNone,
        Field(
            description="TCP port of /livez, /readyz and /metrics, which a separate process answers, whatever the "
            "load; none is GLYPH_PORT plus 1, 0 opens no such port"
        ),
    ] = None
    grpc_port: Annotated[
        Annotated[int, Field(ge=1, le=65535)] | None,
        OrNone,
        Field(
            description="TCP port of the Open Inference Protocol over gRPC, on the address of GLYPH_HOST; none opens "
            "no such port. It needs the extra 'grpc' and the worker class 'inference'"
        ),
    ] = None
    reload_seconds: Annotated[
        float,
        Field(
            ge=0, le=86400, description="seconds between polls for new versions; 0 looks only at the start"
        ),
    ] = 10.0
    kept_versions: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="number of earlier versions that stay loaded, for requests that name them",
        ),
    ] = 1
    drift_window_seconds: Annotated[
        float,
        Field(ge=60, le=604800, description="seconds of traffic that glyph_drift_psi is computed from"),
    ] = 3600.0
    workers: Annotated[
        Positive | None,
        OrNone,
        Field(
            description="number of worker processes; none is one for each usable CPU, or 1 where CUDA is used (not "
            "measured on a GPU yet)"
        ),
    ] = None
    worker: Annotated[
        Literal["inference", "gthread"],
        Field(
            description="worker class: 'inference' is an event loop that runs all requests that have arrived as one "
            "batch; 'gthread' is Gunicorn's thread worker, where each thread runs one request and slow clients are "
            "left to a proxy in front"
        ),
    ] = "inference"
    threads: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description="threads of a worker for pages, probes and large bodies; gthread: also for predictions",
        ),
    ] = 4
    connections: Annotated[
        int,
        Field(
            ge=8,
            le=1 << 20,
            description="maximum number of connections of a worker; beyond it, a new connection closes the one that "
            "has been idle longest",
        ),
    ] = 4096
    queue_limit: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 20,
            description="maximum number of predictions queued in a worker, and separately of other requests; beyond "
            "it, requests are shed with 503 and Retry-After",
        ),
    ] = 512
    queue_bytes: Annotated[
        int,
        Field(
            ge=1 << 20,
            description="maximum number of bytes of requests and unsent answers that a worker holds, half of them for "
            "one client address; beyond it, requests are shed with 503 and Retry-After",
        ),
    ] = 256 << 20
    request_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="deadline of a prediction in seconds, which X-Request-Timeout-Ms can shorten; a request that "
            "waits longer is answered 504 and not computed",
        ),
    ] = 30.0
    header_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="time limit in seconds for a request head, from its first byte to its last; not for gthread",
        ),
    ] = 10.0
    body_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="time limit in seconds for a request body, from the head to the last byte; not for gthread",
        ),
    ] = 30.0
    write_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="seconds within which a client must read some of an answer; not for gthread",
        ),
    ] = 30.0
    max_requests: Annotated[
        int,
        Field(
            ge=0, description="approximate number of requests after which a worker is replaced; 0 is never"
        ),
    ] = 0
    max_body_bytes: Annotated[
        int,
        Field(
            ge=1024,
            le=1 << 30,
            description="maximum size of a request body in bytes; a larger one is answered 413",
        ),
    ] = 8 << 20
    max_files: Annotated[
        int, Field(ge=1, le=65536, description="maximum number of files in one form; more are answered 413")
    ] = 256
    max_images: Annotated[
        int,
        Field(
            ge=1,
            le=65536,
            description="maximum number of images in one body of JSON, raw pixels, or tensors; more are answered 413",
        ),
    ] = 1024
    timeout_seconds: Annotated[
        int,
        Field(
            ge=1,
            description="seconds after which a silent worker is replaced; a worker that loads a model has 120, or this "
            "if it is more",
        ),
    ] = 30
    graceful_timeout_seconds: Annotated[
        int, Field(ge=1, description="seconds that requests in flight have after SIGTERM")
    ] = 25
    tls_certificate: Annotated[
        Path | None,
        OrNone,
        Field(description="PEM file of the TLS certificate and its chain; none serves plain HTTP"),
    ] = None
    tls_key: Annotated[
        Path | None, OrNone, Field(description="PEM file of the certificate's private key")
    ] = None
    keepalive_seconds: Annotated[
        int,
        Field(
            ge=1,
            description="seconds that an idle connection stays open; set more than a load balancer has",
        ),
    ] = 75
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="lowest level that is logged")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        Field(description="format of log lines: text for people, or one JSON object each"),
    ] = "text"
    access_log: Annotated[bool, Field(description="whether to log one line for each request, to stdout")] = (
        False
    )
    tracing: Annotated[
        Literal["off", "otlp"],
        Field(
            description="'otlp' sends spans of each request to a collector by OTLP over HTTP; the standard variables "
            "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and so on configure it"
        ),
    ] = "off"
    tokens_file: Annotated[
        Path | None,
        OrNone,
        Field(
            description="file with the hashes of bearer tokens ('python -m serving.token' prints a line for it); none "
            "requires no token. The file is read again when it changes"
        ),
    ] = None
    trusted_keys: Annotated[
        Path | None,
        OrNone,
        Field(
            description="PEM file of public keys, or directory of such files: a version that none of them signed "
            "('fit --sign', 'python -m bundle sign') is refused before anything of it is parsed. The keys are read "
            "again when they change; none serves any version"
        ),
    ] = None
    docs_token: Annotated[
        bool,
        Field(description="whether /docs and /openapi.json require a token too, if a tokens file is set"),
    ] = False
    metrics_token: Annotated[
        bool, Field(description="whether /metrics requires a token too, if a tokens file is set")
    ] = False
    cors_origins: Annotated[
        tuple[Origin, ...],
        CommaSeparated,
        Field(
            description="origins whose pages may call this service from a browser (CORS), such as "
            "https://app.example.org, separated by commas; '*' allows every origin, none only the service's own page"
        ),
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _split_version(cls, values: Any) -> Any:
        return with_version(values)

    @property
    def model_directory(self) -> Path:
        """Return the directory whose versions are served; for a URL, the one in scratch that they are fetched into."""
        if isinstance(self.model, Path):
            return self.model
        asked = f"{self.model}\n{self.version}\n{self.model_digest}"
        scratch = self.scratch or Path(tempfile.gettempdir()) / f"glyph-{os.geteuid()}"
        return scratch / sha256_bytes(asked.encode())[:16] / self.model.rpartition("/")[2]

    @model_validator(mode="after")
    def _check_grpc(self) -> "ServiceSettings":
        """Reject a port for gRPC where nothing could answer on it."""
        if self.grpc_port is None:
            return self
        if self.worker != "inference":
            raise ValueError(
                f"GLYPH_GRPC_PORT is {self.grpc_port}, and gRPC is answered by an event loop, which gthread has not: "
                "set GLYPH_WORKER=inference, or GLYPH_GRPC_PORT=none"
            )
        if unix_path(self.host) is not None:
            raise ValueError(
                f"GLYPH_GRPC_PORT is {self.grpc_port}, and GLYPH_HOST is a UNIX socket, which has no ports: set "
                "GLYPH_HOST to an address, or GLYPH_GRPC_PORT=none"
            )
        if self.grpc_port in (self.port, management_port(self)):
            raise ValueError(
                f"GLYPH_GRPC_PORT is {self.grpc_port}, which is the port of HTTP or of management: give each its own"
            )
        return self


def management_port(settings: ServiceSettings) -> int:
    """Return the management port, resolved from the settings; 0 means that there is none."""
    if settings.management_port is None:
        return (settings.port + 1) % 65536
    return settings.management_port


_SERVICE_LINK = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes set a variable for a Service called `glyph` or `glyph-...`, so that it is no setting.

    Kubernetes sets such variables in every container (kubernetes.io/docs/concepts/services-networking/service,
    Environment variables). For `GLYPH_PORT` and `GLYPH_..._PORT` only the value distinguishes them from settings.
    """
    if not name.startswith(ENVIRONMENT_PREFIX):
        return False
    rest = name.removeprefix(ENVIRONMENT_PREFIX)
    if rest == "PORT" or rest.endswith("_PORT"):
        return _ADDRESS.match(value) is not None or rest.endswith(("SERVICE_PORT", "_TCP_PORT", "_UDP_PORT"))
    return _SERVICE_LINK.fullmatch(rest) is not None


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """Return the settings in `environment`, ignoring the variables of Kubernetes Services.

    Raises:
        ConfigurationError: a `GLYPH_` variable names no setting; the message suggests the nearest one.
    """
    own = {name: value for name, value in environment.items() if not is_service_link(name, value)}
    return from_environment(ServiceSettings, own, ENVIRONMENT_PREFIX, RESERVED)


def platform_layers(environment: Mapping[str, str]) -> list[Layer]:
    """Return the settings that a platform makes, the last taking precedence; `environment_layer`'s come after them.

    They are SageMaker's directory, and the `PLATFORM_VARIABLES`, of which an empty one sets nothing.
    """
    mounted = [Layer({"model": SAGEMAKER_MODEL}, "a mounted model")] if has_model(SAGEMAKER_MODEL) else []
    platforms = [
        Layer({setting: environment[variable]}, f"the environment variable {variable}")
        for setting, variable in PLATFORM_VARIABLES
        if environment.get(variable)
    ]
    return [*mounted, *platforms]


def load_settings(environment: Mapping[str, str] | None = None) -> ServiceSettings:
    """Return the settings in `environment`, by default the process's own, and of the platform.

    Raises:
        ConfigurationError: a variable is unknown, or its value is not allowed.
    """
    found = os.environ if environment is None else environment
    return build(ServiceSettings, [*platform_layers(found), environment_layer(found)])
