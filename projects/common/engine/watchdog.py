"""Says which rank, step and samples a run hangs at."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from projects.common.engine.distributed import get_rank


class _Task(NamedTuple):
    since: float  # time.monotonic()
    doing: str
    details: Callable[[], str]


class Watchdog:
    """A thread that reports, once each, what takes longer than a limit; nothing is stopped.

    In a hang of several processes every rank reports, and the one that is busy with something else
    than the others is the cause.

    Args:
        minutes: the limit; None watches nothing.
        logger: gets a record with rank, what is being done, and where in the program.
    """

    def __init__(self, *, minutes: float | None, logger: logging.Logger) -> None:
        self.limit = None if minutes is None else 60.0 * minutes
        self.logger = logger
        self._task: _Task | None = None
        self._closed = threading.Event()
        self._watched = threading.get_ident()
        if self.limit is not None:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def watching(self, doing: str, details: Callable[[], str] = str) -> Iterator[None]:
        """Watch what happens inside; ``details`` is only called for a report."""
        self._task = _Task(time.monotonic(), doing, details)
        try:
            yield
        finally:
            self._task = None

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        assert self.limit is not None
        reported: _Task | None = None
        while not self._closed.wait(min(self.limit / 4, 5.0)):
            task = self._task
            if task is None or task is reported or time.monotonic() - task.since < self.limit:
                continue
            reported = task
            self.logger.error(self._report(task))  # a warning of rank 1 is not shown

    def _report(self, task: _Task) -> str:
        minutes = (time.monotonic() - task.since) / 60
        frame = sys._current_frames().get(self._watched)
        where = "".join(traceback.format_stack(frame)[-6:]) if frame else ""
        return (
            f"rank {get_rank()} has been {task.doing} for {minutes:.1f} minutes"
            f" ({task.details()}); it is at\n{where}"
        )
