"""Watching a run from outside: each epoch as it is written down, and a way to end the run for a reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.fit import METRICS_FILE
from training.state import Epoch
from training.stop import Stop


class Watch(Stop):
    """A run's stop flag that reads the epochs from its metrics file whenever the run looks at it.

    The run looks before and after every step, so an epoch is seen one step after it was written;
    the last one, after which there is no step, is the caller's to take from `Fitted.history`.
    """

    def __init__(
        self,
        outer: Stop,
        directory: Path,
        seen: Callable[[Epoch], Exception | None],
        also: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        """Watch the run in `directory`.

        Args:
            outer: the process's own flag, which still ends the run.
            directory: the run's, where its metrics file is.
            seen: called once for each epoch, in order, those of before a resumption too; what it
                returns, if anything, is raised in the run once that has written its checkpoint.
            also: called at each look; as `seen`.
        """
        super().__init__()
        self._outer, self._seen, self._also = outer, seen, also
        self._metrics = directory / METRICS_FILE
        self._read = 0
        self._epoch = 0
        self._reason: Exception | None = None

    @property
    def requested(self) -> bool:
        """Tell whether the run is to end."""
        if self._reason is None:
            self._reason = self._also() or self._look()
        self.signal = self._outer.signal
        return self._outer.requested or self._reason is not None

    def check(self) -> None:
        """Raise what ended the run.

        Raises:
            InterruptedRunError: a signal came.
            Exception: what `seen` or `also` returned.
        """
        if self.requested:
            self._outer.check()
        if self._reason is not None:
            raise self._reason

    def _look(self) -> Exception | None:
        """Read what was written since the last look; a line without its end is left for the next."""
        try:
            if self._metrics.stat().st_size <= self._read:
                return None
            with self._metrics.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return None
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            fields: dict[str, Any] = json.loads(line)
            epoch = Epoch(**fields)
            if epoch.epoch > self._epoch:
                self._epoch = epoch.epoch
                reason = self._seen(epoch)
                if reason is not None:
                    return reason
        return None
