"""Prints answers for programs: one JSON object a file, at once."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from common.errors import one_line
from glyph.answers import Failure, Prediction


class JsonLines:
    """The service's answer, or the problem; each with the member `file` in front."""

    def add(self, found: Prediction | Failure) -> None:
        """Print what became of a file; a failure's sentence also goes to standard error."""
        if isinstance(found, Prediction):
            # The answer's own bytes: numbers keep the service's digits. Line breaks can only be between tokens.
            members = found.body.strip().replace(b"\n", b" ").replace(b"\r", b" ")[1:]
        else:
            members = _compact(found.problem)[1:]
            print(f"error: {one_line(found.file)}: {found.sentence}", file=sys.stderr)
        sys.stdout.buffer.write(_compact({"file": found.file})[:-1] + b"," + members + b"\n")
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Do nothing: every line is printed."""


def _compact(members: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(members), separators=(",", ":")).encode()
