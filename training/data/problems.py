"""Collect the problems of many files into one error, which names the first ones and counts all, or into a list."""

from collections import Counter
from pathlib import Path

from common.atomic_files import write_whole
from common.errors import one_line
from common.progress import Progress
from imagesets.errors import DataError
from training.errors import writing

LIMIT = 20
"""Most files that the message names."""
REMEDY = "correct or remove them, or give --skip-bad FILE to train without them"


class Problems:
    """Collects the problems of a data set's images.

    Args:
        where: the data set, for messages.
        skipped: the file that lists the images that are left out; None ends with an error instead.
    """

    def __init__(self, where: str, skipped: Path | None = None) -> None:
        self._where = where
        self._skipped = skipped
        self._lines: list[str] = []
        self._kinds: Counter[str] = Counter()

    def add(self, path: str, kind: str, found: str = "") -> None:
        """Add an image: `kind` is the category in the counts, `found` the details of this one."""
        shown = one_line(path.encode("utf-8", "backslashreplace").decode(), 4096)
        self._lines.append(f"{shown}: {kind} ({found})" if found else f"{shown}: {kind}")
        self._kinds[kind] += 1

    def settle(self, progress: Progress) -> None:
        """End with an error, or write the list of what is left out, if there are problems.

        Raises:
            DataError: names the first 20 images and counts all problems by kind.
            UnwritableError: the list cannot be written.
        """
        total = self._kinds.total()
        if not total:
            return
        counts = ", ".join(f"{count} {kind}" for kind, count in self._kinds.most_common())
        if self._skipped is not None:
            with writing(self._skipped):
                write_whole(self._skipped, ("\n".join(self._lines) + "\n").encode())
            progress.say(
                f"{self._where}: {total} image(s) are left out ({counts}); {self._skipped} lists them"
            )
            return
        named = [f"  {line}" for line in self._lines[:LIMIT]]
        more = [f"  and {total - LIMIT} more"] if total > LIMIT else []
        raise DataError(
            "\n".join(
                [
                    f"{self._where} has {total} bad file(s) or folder(s):",
                    *named,
                    *more,
                    f"in total: {counts}; {REMEDY}, and run this again",
                ]
            )
        )
