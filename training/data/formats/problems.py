"""Collect the problems of many files into one error, which names the first ones and counts all."""

from collections import Counter

from training.errors import DataError

LIMIT = 20
"""Most files that the message names."""


class Problems:
    """Collects the problems of a data set's files."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._named: list[str] = []
        self._kinds: Counter[str] = Counter()

    def add(self, path: str, kind: str, found: str = "") -> None:
        """Add a file: `kind` is the category in the counts, `found` the details of this file."""
        if len(self._named) < LIMIT:
            shown = path.encode("utf-8", "backslashreplace").decode()
            self._named.append(f"  {shown}: {kind} ({found})" if found else f"  {shown}: {kind}")
        self._kinds[kind] += 1

    def raise_if_any(self, remedy: str) -> None:
        """Raise if there are problems.

        Raises:
            DataError: names the first 20 files and counts all problems by kind.
        """
        total = self._kinds.total()
        if not total:
            return
        more = [f"  and {total - LIMIT} more"] if total > LIMIT else []
        counts = ", ".join(f"{count} {kind}" for kind, count in self._kinds.most_common())
        lines = [f"{self._where} has {total} bad file(s) or folder(s):", *self._named, *more]
        raise DataError("\n".join([*lines, f"in total: {counts}; {remedy}, and run this again"]))
