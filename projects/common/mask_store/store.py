"""A mask store, open for reading: any mask of a gigabyte in microseconds, shared by processes.

The file is mapped, so that its pages are the system's: processes that read the same store share
them, and what a store holds itself is a few hundred bytes. A pickled store or track is a name; it
opens the file anew where it is unpickled (a loader's worker).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.mask_store.layout import BROKEN, key_hash, map_tables, read_footer
from projects.common.mask_store.nearest import sample_runs
from projects.common.masks import Rle, decode_rle, rle_runs


class MaskStore:
    """Tracks by key; ``open_masks`` makes and checks the file, this class reads it.

    Args:
        path: the store's file.
        source: the dictionary that it was made of, named in errors.
    """

    def __init__(self, path: str | Path, source: str | Path) -> None:
        self.path, self.source = Path(path), Path(source)
        footer = read_footer(self.path)
        self.identity: dict[str, Any] = footer["source"]
        self._mapped, tables = map_tables(self.path, footer)
        self._offset, self._size, self._area = tables["offset"], tables["size"], tables["area"]
        self._first, self._hash, self._order = tables["first"], tables["hash"], tables["order"]
        self._name, self._names = tables["name"], tables["names"]

    def __len__(self) -> int:
        """Number of tracks."""
        return len(self._order)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def __getitem__(self, key: str) -> StoredTrack:
        number = self._find(key)
        if number is None:
            raise KeyError(f"anno_id {key} not in {self.source}")
        return StoredTrack(self, number)

    def keys(self) -> Iterator[str]:
        """The keys in the order of the source."""
        return (self.key(number) for number in range(len(self)))

    def key(self, number: int) -> str:
        begin, end = int(self._name[number]), int(self._name[number + 1])
        return self._names[begin:end].tobytes().decode()

    def masks(self, number: int) -> range:
        """Where the masks of a track are."""
        return range(int(self._first[number]), int(self._first[number + 1]))

    def areas(self, number: int) -> np.ndarray:
        """Pixels of a track's masks, uint32 [frames]; ``BROKEN`` of those that do not decode."""
        masks = self.masks(number)
        return self._area[masks.start : masks.stop]

    def rle(self, mask: int) -> Rle | None:
        """The RLE of a mask, its counts as bytes; of a broken one what the source has."""
        height, width = self._size[mask].tolist()
        broken = self._area[mask] == BROKEN
        if height == 0 and not broken:
            return None
        text = self._mapped[int(self._offset[mask]) : int(self._offset[mask + 1])]
        return json.loads(text) if broken else {"size": [height, width], "counts": text}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), str(self.source), tuple(sorted(self.identity.items())))

    def __repr__(self) -> str:
        return f"MaskStore({str(self.source)!r})"

    def _find(self, key: str) -> int | None:
        wanted = np.uint64(key_hash(key))
        place = int(np.searchsorted(self._hash, wanted))
        while place < len(self._hash) and self._hash[place] == wanted:
            number = int(self._order[place])
            if self.key(number) == key:
                return number
            place += 1
        return None


@dataclass(frozen=True, repr=False)
class StoredTrack:
    """One object's masks over the frames of its video."""

    store: MaskStore
    number: int
    group: bool = False  # a mask of several objects

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.store.masks(self.number))

    @property
    def where(self) -> str:
        return f"{self.store.source} anno_id {self.store.key(self.number)}"

    def rle(self, frame: int) -> Rle | None:
        """The RLE on a frame (counts as bytes); None where the object is absent."""
        masks = self.store.masks(self.number)
        if not 0 <= frame < len(masks):
            raise IndexError(f"{self.where} has {len(masks)} frames, asked for {frame}")
        return self.store.rle(masks[frame])

    def read(self, frame: int) -> np.ndarray | None:
        """The mask on a frame, bool [H, W]; None where the object is absent."""
        rle = self.rle(frame)
        return None if rle is None else decode_rle(rle, where=f"{self.where} frame {frame}")

    def sample(
        self, frame: int, size: tuple[int, int], side: int, *, mirror: bool = False
    ) -> np.ndarray | None:
        """The mask on a frame at [side, side], nearest, without drawing it in full.

        Args:
            size: (height, width) that the mask must have: that of the frame.
            mirror: of the mask flipped left to right.
        """
        rle = self.rle(frame)
        if rle is None:
            return None
        runs = rle_runs(rle, where=f"{self.where} frame {frame}", size=size)
        return sample_runs(runs, size, side, mirror=mirror)

    def areas(self) -> np.ndarray:
        """Pixels on each frame, int64 [frames], without decoding.

        Raises:
            ValueError: a mask of the track is broken; the message says which and how.
        """
        areas = self.store.areas(self.number).astype(np.int64)
        broken = np.flatnonzero(areas == BROKEN)
        if len(broken):
            self.read(int(broken[0]))  # says what is wrong with it
        return areas

    def is_empty(self) -> bool:
        """Whether the object is on none of the frames; raises as :meth:`areas`."""
        return not self.areas().any()

    def box(self, frame: int) -> tuple[int, int, int, int] | None:
        """Smallest box (x1, y1, x2, y2) on a frame, x2 and y2 exclusive; None where there is none.

        Read off the runs: whatever ends in another column than it began spans the full height.
        """
        rle = self.rle(frame)
        if rle is None:
            return None
        ends = np.cumsum(rle_runs(rle, where=f"{self.where} frame {frame}"))
        begin, end = ends[:-1:2], ends[1::2]
        filled = end > begin
        if not filled.any():
            return None
        height = rle["size"][0]
        first, top = np.divmod(begin[filled], height)
        last, bottom = np.divmod(end[filled] - 1, height)
        if (last > first).any():
            top, bottom = np.array([0]), np.array([height - 1])
        return int(first[0]), int(top.min()), int(last[-1]) + 1, int(bottom.max()) + 1

    def __repr__(self) -> str:
        return f"StoredTrack({self.where!r})"


# rows are unpickled one by one, and all of them name the same few stores
@functools.lru_cache(maxsize=64)
def _reopen(path: str, source: str, identity: tuple[tuple[str, Any], ...]) -> MaskStore:
    store = MaskStore(path, source)
    if store.identity != dict(identity):
        raise ValueError(
            f"{path}: the mask store was made anew of another {source} since this process began; "
            "start again"
        )
    return store
