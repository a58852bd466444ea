"""What an answer says: a prediction, or what is wrong with the file; and the errors that end the command."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from typing import Any, Protocol

from common.errors import ConfigurationError, one_line

FILE_PROBLEMS = frozenset({413, 415, 422})
"""Statuses of problems that one file has; any other concerns all of them."""
BAD_QUERY = "urn:glyph:problem:bad-query"
REMEDIES = {
    "urn:glyph:problem:broken-image": "Take the file from its source once more, or save it anew.",
    "urn:glyph:problem:image-too-large": "Scale the image down, and save it without metadata.",
    "urn:glyph:problem:malformed-authorization": "Give the token in GLYPH_TOKEN, or by --token-file.",
    "urn:glyph:problem:unauthorized": "Give a valid token in GLYPH_TOKEN, or by --token-file.",
    "urn:glyph:problem:unsupported-media-type": "Give an image file: PNG, JPEG, GIF, BMP, WebP or TIFF.",
}
"""What to do here about problems whose remedy is about HTTP, by type."""


class PredictError(Exception):
    """The base of the errors that end the command; the message says what to do."""

    exit_code = 69


class UnavailableError(PredictError):
    """The service cannot be reached or does not answer, or the execution provider does not work."""


class ModelError(PredictError):
    """The model cannot be loaded or proven."""

    exit_code = 70


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of `POST /predict` to one file."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction."""

    file: str
    body: bytes
    """The answer, a JSON object: see `serving.predict.response_json.encode`."""
    label: str
    probability: float
    probabilities: Mapping[str, float]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that has no prediction."""

    file: str
    problem: Mapping[str, Any]
    """Members of the problem document."""

    @property
    def sentence(self) -> str:
        """Return what is wrong, and what to do."""
        return _sentence(self.problem)


class Model(Protocol):
    """What answers."""

    def ask(self, image: bytes) -> Answer:
        """Return the answer to a file.

        Raises:
            PredictError: there is none.
        """

    def close(self) -> None:
        """Free what it holds."""


class Printer(Protocol):
    """What shows the answers."""

    def add(self, found: Prediction | Failure) -> None:
        """Take what became of a file."""

    def close(self) -> None:
        """Show what is not shown yet."""


def outcome(file: str, answer: Answer) -> Prediction | Failure:
    """Return what an answer says about a file.

    Raises:
        ConfigurationError: the model does not offer `--resize` as it is given.
        UnavailableError: the problem is not the file's, or the answer is not Glyph's.
    """
    try:
        document = json.loads(answer.body)
        if answer.status == HTTPStatus.OK:
            (found,) = document["predictions"]
            probabilities = {str(name): float(value) for name, value in found["probabilities"].items()}
            warnings = tuple(map(str, found["warnings"]))
            return Prediction(
                file, answer.body, str(found["label"]), float(found["probability"]), probabilities, warnings
            )
        problem = {"type": str(document["type"]), "title": str(document["title"]), "status": answer.status}
        problem |= {"detail": str(document["detail"]), "remedy": str(document["remedy"])}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        reason = responses.get(answer.status, "")
        raise UnavailableError(
            f"the answer, {answer.status} {reason}, is not a Glyph service's: check the address, and any proxy"
        ) from None
    if problem["type"] == BAD_QUERY:
        raise ConfigurationError(_sentence(problem))
    if answer.status not in FILE_PROBLEMS:
        raise UnavailableError(f"the service answered {answer.status}: {_sentence(problem)}")
    return Failure(file, problem)


def _sentence(problem: Mapping[str, Any]) -> str:
    """Return a problem's detail and remedy, with the option where the service names the parameter of its query."""
    remedy = REMEDIES.get(problem.get("type", ""), problem["remedy"]).replace("?resize=", "--resize ")
    return one_line(f"{problem['detail']}. {remedy}", 600)
