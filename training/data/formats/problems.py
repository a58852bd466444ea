"""Many files, many troubles: name the first, count all, end once."""

from collections import Counter

from training.errors import DataError

LIMIT = 20
"""Files named in the message; the others are counted."""


class Problems:
    """Collects what is wrong with the files of a data set."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._named: list[str] = []
        self._kinds: Counter[str] = Counter()

    def add(self, path: str, kind: str, found: str = "") -> None:
        """Note a file. `kind` is what it is counted under; `found` says more, for this file."""
        if len(self._named) < LIMIT:
            shown = path.encode("utf-8", "backslashreplace").decode()
            self._named.append(f"  {shown}: {kind} ({found})" if found else f"  {shown}: {kind}")
        self._kinds[kind] += 1

    def raise_if_any(self, remedy: str) -> None:
        """End, if something was noted.

        Raises:
            DataError: names the first 20, says how many more there are, and counts all by kind.
        """
        total = self._kinds.total()
        if not total:
            return
        more = [f"  and {total - LIMIT} more"] if total > LIMIT else []
        counts = ", ".join(f"{count} {kind}" for kind, count in self._kinds.most_common())
        lines = [f"{self._where} has {total} bad file(s) or folder(s):", *self._named, *more]
        raise DataError("\n".join([*lines, f"in all: {counts}; {remedy}, and run this again"]))
