"""Looks through datasets before a run does: what is there, and what is broken.

A dataset joins by two methods, ``__len__`` (its records) and ``inspect(index)``, which reads one
record whole and answers with a :class:`RecordReport`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

SHOWN_PROBLEMS = 10


@dataclass
class RecordReport:
    """One record: what to add up, and what is wrong with it."""

    counts: dict[str, int] = field(default_factory=dict)  # such as videos, frames, objects
    problems: list[str] = field(default_factory=list)  # file, record and reason


class Inspectable(Protocol):
    def __len__(self) -> int: ...

    def inspect(self, index: int) -> RecordReport: ...


@dataclass
class DatasetReport:
    """Sums over the records of a dataset."""

    name: str
    records: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    bad_records: int = 0
    problems: list[str] = field(default_factory=list)  # the first ones
    seconds: float = 0.0

    def add(self, record: RecordReport) -> None:
        self.records += 1
        self.counts.update(record.counts)
        if record.problems:
            self.bad_records += 1
            self.problems += record.problems[: SHOWN_PROBLEMS - len(self.problems)]

    @property
    def clean(self) -> bool:
        return not self.bad_records and not self.problems


def inspect_dataset(
    name: str,
    dataset: Inspectable,
    *,
    limit: int | None = None,
    workers: int = 0,
    on_record: Callable[[DatasetReport], None] = lambda report: None,
) -> DatasetReport:
    """Inspect the records of a dataset, or ``limit`` of them spread evenly over it.

    Args:
        workers: processes; 0 reads in this one.
        on_record: called after each record, for a progress bar.
    """
    loader = DataLoader(
        _Records(dataset, spread(len(dataset), limit)),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_one_thread if workers else None,
    )
    report = DatasetReport(name)
    start = time.monotonic()
    for record in loader:
        report.add(record)
        report.seconds = time.monotonic() - start
        on_record(report)
    return report


def spread(length: int, limit: int | None) -> list[int]:
    """``limit`` indices spread evenly over ``length``, or all of them."""
    if limit is None or limit >= length:
        return list(range(length))
    return [number * length // limit for number in range(limit)]


class _Records(Dataset):
    def __init__(self, dataset: Inspectable, indices: list[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> RecordReport:
        try:
            return self.dataset.inspect(self.indices[position])
        except (ValueError, OSError) as error:  # a broken file; bugs are raised
            return RecordReport(counts={"unreadable": 1}, problems=[str(error)])


def _as_it_is(record: Any) -> Any:
    return record


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
