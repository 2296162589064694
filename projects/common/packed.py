"""A list kept as bytes, which the processes of a data loader share.

    rows ─► pickled, one after the other ─► one buffer + where each begins ─► a row when it is read

A forked worker shares its parent's memory until somebody writes there, and reading a Python object
writes: its reference count. So every worker ends with a copy of every object it has read, and a
large annotation file lies in memory once for each. Bytes in one buffer have no counts. The buffer
is never read from a file: what is unpickled was pickled by this run.
"""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

Item = TypeVar("Item")


class Packed(Sequence[Item], Generic[Item]):
    """A sequence whose items are made anew, equal to what was given, whenever they are read.

    Items that are packed as soon as they are made leave no trace in what workers inherit.
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._buffer = bytearray()
        self._ends = array("q", [0])
        for item in items:
            self.append(item)

    def append(self, item: Item) -> None:
        """Add anything that can be pickled; it is not kept itself."""
        self._buffer += pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
        self._ends.append(len(self._buffer))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        with memoryview(self._buffer) as buffer:
            return pickle.loads(buffer[self._ends[place] : self._ends[place + 1]])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return len(self._buffer)

    def __repr__(self) -> str:
        return f"Packed({len(self)} items, {self.nbytes} bytes)"


def packed(items: Sequence[Item]) -> Packed[Item]:
    """The items packed; themselves where they are already."""
    return items if isinstance(items, Packed) else Packed(items)
