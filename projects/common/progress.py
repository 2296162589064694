"""Progress with an estimate of the time left, on rank 0 only.

On a terminal it is a bar. Elsewhere (a log file, a CI job) carriage returns would make one endless
line, so whole lines are written instead, few enough to read: ``SPARSE_STEP`` of the work or
``SPARSE_SECONDS`` apart, whichever comes first, and one at the end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import TextIO, TypeVar

import torch.distributed as dist
from tqdm import tqdm

T = TypeVar("T")

SPARSE_STEP = 0.1
SPARSE_SECONDS = 30.0
SPARSE_PAUSE = 2.0  # even a tenth of the work is no news sooner than this


def current_rank() -> int:
    """Rank of this process: from the process group, else from the launcher's ``RANK``, else 0."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", "0"))


def duration(seconds: float) -> str:
    """Seconds as ``42s``, ``3m 05s`` or ``2h 04m``."""
    whole = int(round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


class Progress:
    """Counts finished work and shows it; a context manager.

    Args:
        total: units of work in all, or None when unknown (then there is no estimate).
        description: what is being done, in a few words.
        initial: units done before (a resumed run); they do not enter the estimate.
        stream: where to write, ``sys.stderr`` by default.
        clock: seconds, monotonic; a test passes its own.

    Ranks other than 0 write nothing.
    """

    def __init__(
        self,
        *,
        total: int | None,
        description: str,
        initial: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.description = total, description
        self.done = self._initial = initial
        self._note = ""
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._start = self._last_time = clock()
        self._last_done: int | None = initial
        self._silent = current_rank() != 0
        self._bar: tqdm | None = None
        if not self._silent and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                desc=description,
                initial=initial,
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.1,
            )

    def update(self, amount: int = 1, note: str | None = None) -> None:
        """Record ``amount`` more finished units; ``note`` (a loss, a file) is shown behind them."""
        self.done += amount
        if note is not None:
            self._note = note
        if self._bar is not None:
            if note is not None:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif not self._silent and self._line_due():
            self._write_line()

    def close(self) -> None:
        """Show the last state; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()
        elif not self._silent and self._last_done != self.done:
            self._write_line()
        self._silent, self._bar = True, None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _line_due(self) -> bool:
        if self.total is not None and self.done >= self.total:
            return True
        waited = self._clock() - self._last_time
        if waited >= SPARSE_SECONDS:
            return True
        if self.total is None or waited < SPARSE_PAUSE:
            return False
        return self.done - (self._last_done or 0) >= SPARSE_STEP * self.total

    def _write_line(self) -> None:
        now = self._clock()
        elapsed = now - self._start
        parts = [f"{self.description}: {self.done}"]
        if self.total:
            parts[0] += f"/{self.total} ({self.done / self.total:.0%})"
        parts.append(f"{duration(elapsed)} elapsed")
        fresh = self.done - self._initial
        if self.total and 0 < fresh and self.done < self.total:
            parts.append(f"{duration(elapsed / fresh * (self.total - self.done))} left")
        if self._note:
            parts.append(self._note)
        self._stream.write(", ".join(parts) + "\n")
        self._stream.flush()
        self._last_time, self._last_done = now, self.done


def track(
    iterable: Iterable[T], *, total: int | None = None, description: str, initial: int = 0
) -> Iterator[T]:
    """Yield the items of ``iterable`` and show how far it is (see ``Progress``).

    ``total`` defaults to ``initial + len(iterable)`` where it has a length. An item counts as
    finished when the next one is asked for.
    """
    if total is None and isinstance(iterable, Sized):
        total = initial + len(iterable)
    with Progress(total=total, description=description, initial=initial) as progress:
        for item in iterable:
            yield item
            progress.update()
