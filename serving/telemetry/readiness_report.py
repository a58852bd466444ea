"""The readiness report, which `/readyz` answers with: of one process, or of all workers from their published facts."""

from collections.abc import Iterable, Mapping
from typing import Any

from serving.errors import NotReadyError

ENDING = ("the service is ending", "Send requests to another instance.")
"""Detail and remedy of a process that drains."""


def report(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of a ready process, given its facts (`ModelStore.facts`)."""
    names = ("model", "provider", "arithmetic", "loaded", "refused")
    return {"ready": True} | {name: facts[name] for name in names}


def no_model(reason: str) -> str:
    """Return the detail for a process that has no model."""
    return f"no model is served: {reason}"


def not_ready(detail: str, remedy: str, extensions: Mapping[str, Any]) -> NotReadyError:
    """Return the error that a process that is not ready answers with."""
    error = NotReadyError(detail, remedy=remedy)
    error.extensions = dict(extensions)
    return error


def newest_first(failures: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the versions that failed verification, each once, the newest first."""
    found = {failure["version"]: failure for failure in failures}
    return [found[version] for version in sorted(found, reverse=True)]
