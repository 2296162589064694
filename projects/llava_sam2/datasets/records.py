"""Annotation files to rows: what is read, what is bad in it, and why.

    [record, ...] ─► numbered ─► make(name, record, errors) ─► rows, packed
                                            └─► RowErrors: raised at once, or counted and left out

A reader is a function that makes a row of a record; :func:`collect` does what all have in common.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from projects.common.json_stream import json_values
from projects.common.packed import Packed
from projects.common.progress import Progress

logger = logging.getLogger(__name__)

Record = TypeVar("Record")
T = TypeVar("T")
_LISTED = 10
_LARGE = 1 << 26  # bytes from which reading a file is worth a progress bar


class Numbered(NamedTuple):
    """A record of a list, and its place there."""

    number: int
    record: Any


class RowErrors:
    """Collects what is wrong with a file's records, then raises once or skips them with a count.

    Args:
        source: the annotation file, named in the message.
        on_bad_row: "error" or "skip".
    """

    def __init__(self, source: str | Path, on_bad_row: str = "error") -> None:
        if on_bad_row not in ("error", "skip"):
            raise ValueError(f"on_bad_row is 'error' or 'skip', got {on_bad_row!r}")
        self.source = Path(source)
        self.on_bad_row = on_bad_row
        self.messages: list[str] = []
        self.reasons: Counter[str] = Counter()

    def add(self, record: str, problem: str) -> None:
        self.messages.append(f"{record}: {problem}")
        self.reasons[_reason(problem)] += 1

    def finish(self, rows: Sequence[Any]) -> None:
        """Raise ValueError (or warn, if told to skip) with the count and the first ten.

        Raises:
            ValueError: bad records under "error", or no row left.
        """
        if self.messages:
            shown = "\n".join(f"  {message}" for message in self.messages[:_LISTED])
            more = len(self.messages) - _LISTED
            tail = f"\n  ... and {more} more\n  {self._by_reason()}" if more > 0 else ""
            text = f"{self.source}: {len(self.messages)} bad records:\n{shown}{tail}"
            if self.on_bad_row == "error":
                raise ValueError(f"{text}\nmend them, or pass on_bad_row='skip' to leave them out")
            logger.warning("%s\n  left out (on_bad_row='skip')", text)
        if not rows:
            raise ValueError(f"{self.source}: no usable record; check the split and the paths")

    def _by_reason(self) -> str:
        counts = [f"{count} x {reason}" for reason, count in self.reasons.most_common(_LISTED)]
        rest = len(self.reasons) - _LISTED
        return "by reason: " + "; ".join(counts) + (f"; {rest} others" if rest > 0 else "")


def _reason(problem: str) -> str:
    """A problem without the names, paths and numbers that tell one record from another."""
    without_paths = re.sub(r"\S*/\S*", "...", problem)
    return re.sub(r"'[^']*'", "'...'", re.sub(r"\d+", "n", without_paths))


def collect(
    named: Iterable[tuple[str, Record]],
    make: Callable[[str, Record, RowErrors], T | str | None],
    *,
    file: str | Path,
    on_bad_row: str,
    limit: int | None = None,
) -> Packed[T]:
    """Rows of the records of a file, one at a time.

    Args:
        named: what errors call a record, and the record.
        make: a record's row; or text, what is wrong with it; or None, where it has told the errors
            itself and nothing is left.
        file: named in errors.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: read the first so many records.

    Raises:
        ValueError: naming the file and the records.
    """
    errors = RowErrors(file, on_bad_row)
    rows: Packed[T] = Packed()
    for name, record in islice(named, limit):
        row = make(name, record, errors)
        if isinstance(row, str):
            errors.add(name, row)
        elif row is not None:
            rows.append(row)
    errors.finish(rows)
    return rows


def numbered(file: Path, *, what: str = "records") -> Iterator[tuple[str, Numbered]]:
    """The records of a json that is a list, named by their numbers, read as they are asked for.

    Raises:
        FileNotFoundError, ValueError: no such file, not a list, or no json.
    """
    for number, record in enumerate(list_of_records(file, what=what)):
        yield f"record {number}", Numbered(number, record)


def list_of_records(file: Path, *, what: str = "records") -> Iterator[Any]:
    """The records alone, as of :func:`numbered`."""
    _must_exist(file)
    size = file.stat().st_size
    if size < _LARGE:
        yield from (record for record, _ in json_values(file, what=what))
        return
    with Progress(total=size >> 20, description=f"Reading {file.name}, MB") as progress:
        for record, done in json_values(file, what=what):
            yield record
            if (done >> 20) > progress.done:
                progress.update((done >> 20) - progress.done)


def load_json(path: Path) -> Any:
    """A JSON file; errors name it."""
    _must_exist(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the data root")
