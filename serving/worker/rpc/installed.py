"""Whether the packages of the extra `grpc` are installed; the arbiter imports this, and none of them."""

from importlib.util import find_spec

from common.errors import ConfigurationError
from serving.settings import ServiceSettings


def check_installed(settings: ServiceSettings) -> None:
    """Check at the start, not in each worker, that the packages are installed.

    Raises:
        ConfigurationError: gRPC is on and they are not.
    """
    if settings.grpc_port is not None and not all(map(_found, ("h2", "google.protobuf"))):
        raise ConfigurationError(
            f"GLYPH_GRPC_PORT is {settings.grpc_port}, but h2 and protobuf are not installed: install the extra "
            "'grpc' (pip install 'glyph[grpc]'), or unset GLYPH_GRPC_PORT"
        )


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
