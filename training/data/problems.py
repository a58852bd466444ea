"""Collect the problems of many files into one error, which names the first ones and counts all, or into a list."""

from collections import Counter
from pathlib import Path

from bundle.images.errors import ImageFault
from common.atomic_files import write_whole
from common.errors import one_line
from common.progress import Progress
from imagesets.errors import DataError
from training.errors import writing

RESIZE = "make them 28x28 with --resize fit, pad or mnist; "
LIMIT = 20
"""Most files that the message names."""
REMEDY = "correct or remove them, or give --skip-bad FILE to train without them"


class Problems:
    """Collects the problems of a data set's images, from every reading of them: a later one repeats some and adds more.

    Args:
        where: the data set, for messages.
        skipped: the file that lists the images that are left out; None ends with an error instead.
    """

    def __init__(self, where: str, skipped: Path | None = None) -> None:
        self._where = where
        self._skipped = skipped
        self._kinds: dict[str, str] = {}
        """Line to the kind, in the order in which they were found."""
        self._settled = 0

    def add(self, path: str, kind: str, found: str = "") -> None:
        """Add an image: `kind` is the category in the counts, `found` the details of this one."""
        shown = one_line(path.encode("utf-8", "backslashreplace").decode(), 4096)
        self._kinds[f"{shown}: {kind} ({found})" if found else f"{shown}: {kind}"] = kind

    def settle(self, progress: Progress) -> None:
        """End with an error, or write the list of all that is left out, if there are problems that were not settled.

        Raises:
            DataError: names the first 20 images and counts all problems by kind.
            UnwritableError: the list cannot be written.
        """
        total = len(self._kinds)
        if total == self._settled:
            return
        self._settled = total
        kinds = Counter(self._kinds.values())
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        if self._skipped is not None:
            with writing(self._skipped):
                write_whole(self._skipped, ("\n".join(self._kinds) + "\n").encode())
            progress.say(
                f"{self._where}: {total} image(s) are left out ({counts}); {self._skipped} lists them"
            )
            return
        named = [f"  {line}" for line in [*self._kinds][:LIMIT]]
        more = [f"  and {total - LIMIT} more"] if total > LIMIT else []
        raise DataError(
            "\n".join(
                [
                    f"{self._where} has {total} bad file(s) or folder(s):",
                    *named,
                    *more,
                    f"in total: {counts}; {RESIZE if ImageFault.SIZE in kinds else ''}{REMEDY}, and run this again",
                ]
            )
        )
