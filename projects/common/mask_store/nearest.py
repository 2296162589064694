"""Masks at another size straight from their runs: the full-size mask is never made.

    runs (down the columns)  ──► where each run ends among the sampled pixels ──► small mask

"Nearest" is torch's ``nearest-exact``, which looks under the centre of the new pixel. Which pixel
that is, is asked of torch itself, so the result equals decoding and resizing bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Axis:
    """Which of ``length`` pixels of one axis are taken for ``size`` new ones.

    ``source[i]`` is the pixel that new pixel i shows. The other fields serve runs: ``before[k]``
    (0..length) counts the distinct taken pixels below k, ``taken[k]`` says whether k is one, and
    ``place[i]`` is new pixel i's among the distinct ones, None where that is i itself.
    """

    source: np.ndarray
    before: np.ndarray
    taken: np.ndarray
    place: np.ndarray | None


@lru_cache(maxsize=4096)
def axis(length: int, size: int, mirror: bool = False) -> Axis:
    """The pixels of an axis that ``resize`` to ``size`` takes; ``mirror``: of the mirrored axis."""
    source = _nearest(length, size)
    if mirror:
        source = length - 1 - source
    distinct, place = np.unique(source, return_inverse=True)
    taken = np.zeros(length + 1, dtype=bool)
    taken[distinct] = True
    before = np.concatenate([[0], np.cumsum(taken[:-1])])
    plain = len(distinct) == size and not mirror
    return Axis(source, before, taken, None if plain else place)


def _nearest(length: int, size: int) -> np.ndarray:
    # asked in the way in which masks are resized, uint8 to a square: torch rounds a place that
    # falls between two pixels by type, and differently for an output of a single row
    numbers = np.arange(length, dtype=np.int64)
    planes = torch.from_numpy(np.stack([numbers & 255, numbers >> 8]).astype(np.uint8))
    taken = F.interpolate(planes[:, None, None, :], size=(size, size), mode="nearest-exact")
    low, high = taken[:, 0, 0].numpy().astype(np.int64)
    return low | high << 8


def sample_mask(mask: np.ndarray, side: int, *, mirror: bool = False) -> np.ndarray:
    """A mask [H, W] at [side, side], nearest; ``mirror``: of the mask flipped left to right."""
    rows, columns = axis(mask.shape[0], side), axis(mask.shape[1], side, mirror)
    return mask[rows.source[:, None], columns.source[None, :]]


def sample_runs(
    runs: np.ndarray, size: tuple[int, int], side: int, *, mirror: bool = False
) -> np.ndarray:
    """What :func:`sample_mask` gives for the mask of these runs, bool [side, side].

    Args:
        runs: lengths, background first, down the columns; they cover the mask exactly.
        size: (height, width) of the mask.
    """
    height, width = size
    rows, columns = axis(height, side), axis(width, side, mirror)
    per_column = int(rows.before[-1])
    column, row = np.divmod(np.cumsum(runs), height)
    ends = columns.before[column] * per_column + columns.taken[column] * rows.before[row]
    values = np.zeros(len(runs), dtype=bool)
    values[1::2] = True
    small = np.repeat(values, np.diff(ends, prepend=0)).reshape(-1, per_column)
    if columns.place is not None:
        small = small[columns.place]
    if rows.place is not None:
        small = small[:, rows.place]
    return np.ascontiguousarray(small.T)
