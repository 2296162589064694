"""Many files through one function, in several processes; failures are collected, not raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_AHEAD = 4  # tasks that wait per worker: enough to keep it busy, few enough to stop at once


@dataclass
class Outcome(Generic[T]):
    """What became of one item: a result, or the message of the error that a file caused."""

    item: T
    result: Any = None
    error: str | None = None


def map_files(
    function: Callable[[T], Any], items: Sequence[T], *, workers: int
) -> Iterator[Outcome[T]]:
    """Outcomes as they come. ``ValueError`` and ``OSError`` belong to the file; others are raised.

    Args:
        function: can be pickled where ``workers`` is above 0.
        workers: processes; 0 works in this one.
    """
    if workers < 1:
        for item in items:
            yield _attempt(function, item)
        return
    with ProcessPoolExecutor(workers) as pool:
        left = iter(items)
        pending: set[Future[Outcome[T]]] = set()
        try:
            while True:
                for item in islice(left, workers * _AHEAD - len(pending)):
                    pending.add(pool.submit(_attempt, function, item))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            for future in pending:
                future.cancel()


def _attempt(function: Callable[[T], Any], item: T) -> Outcome[T]:
    try:
        return Outcome(item, result=function(item))
    except (ValueError, OSError) as error:
        return Outcome(item, error=str(error))
