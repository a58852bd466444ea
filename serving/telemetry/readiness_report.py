"""What `/readyz` answers: of one process, and of all workers by what each has published."""

from collections.abc import Iterable, Mapping
from typing import Any

from serving.errors import NotReadyError

ENDING = ("the service is ending", "Send requests to another instance.")
"""What is wrong, and what to do."""


def report(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is answered where predictions are; `facts` are a ready process's, as `ModelStore.facts` has them."""
    names = ("model", "provider", "arithmetic", "loaded", "refused")
    return {"ready": True} | {name: facts[name] for name in names}


def no_model(reason: str) -> str:
    """Return what is wrong where a process has no model."""
    return f"no model is served: {reason}"


def not_ready(detail: str, remedy: str, extensions: Mapping[str, Any]) -> NotReadyError:
    """Return what is answered where predictions are not."""
    error = NotReadyError(detail, remedy=remedy)
    error.extensions = dict(extensions)
    return error


def newest_first(refusals: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return refused versions and why, each version once and the newest first."""
    found = {refusal["version"]: refusal for refusal in refusals}
    return [found[version] for version in sorted(found, reverse=True)]
