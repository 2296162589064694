"""The areas of many compressed RLEs at once, and which of them are broken.

Following COCO's text format: a run is written in groups of 5 bits, the lowest first, one character
each (value + 48); bit 6 says that more groups follow, bit 5 of the last one is the sign; from the
fourth run on the number is the difference to the run two before.
"""

from __future__ import annotations

import numpy as np

BROKEN = -1
_MAX_GROUPS = 7  # of one run: 35 bits, more than any mask has pixels


def measure(text: np.ndarray, lengths: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Areas in pixels, int64 [N]; ``BROKEN`` where the runs do not cover the mask exactly.

    Args:
        text: the RLEs' characters one after the other, uint8.
        lengths: characters of each RLE, int64 [N], at least 1.
        pixels: height * width of each, int64 [N].
    """
    if len(lengths) == 0:
        return np.zeros(0, dtype=np.int64)
    last = np.cumsum(lengths) - 1
    groups = text.astype(np.int64) - 48
    strange = (groups < 0) | (groups > 63)
    broken = np.logical_or.reduceat(strange, last - lengths + 1) | (groups[last] >= 32)
    is_end = groups < 32
    is_end[last] = True  # a cut RLE must not run into the next one
    values, run_groups = _numbers(groups, is_end)
    runs_up_to = np.cumsum(is_end)[last]
    first = np.concatenate([[0], runs_up_to[:-1]])
    count = runs_up_to - first
    broken |= np.logical_or.reduceat(run_groups > _MAX_GROUPS, first)
    number = np.arange(len(values)) - np.repeat(first, count)  # of a run within its mask
    odd = number % 2 == 1
    runs = np.where(
        odd,
        _sums(np.where(odd, values, 0), first, count),
        _sums(np.where(odd | (number == 0), 0, values), first, count),
    )
    runs[first] = values[first]
    broken |= np.logical_or.reduceat(runs < 0, first)
    broken |= np.add.reduceat(runs, first) != pixels
    area = np.add.reduceat(np.where(odd, runs, 0), first)
    return np.where(broken, BROKEN, area)


def _numbers(groups: np.ndarray, is_end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The signed numbers that the groups spell, and how many groups each has."""
    ends = np.flatnonzero(is_end)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    place = np.minimum(place, _MAX_GROUPS)
    values = np.add.reduceat((groups & 31) << (5 * place), starts)
    negative = (groups[ends] & 16) != 0
    return values - (negative.astype(np.int64) << (5 * np.minimum(lengths, _MAX_GROUPS))), lengths


def _sums(values: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Running sums that start anew with each mask."""
    sums = np.cumsum(values)
    return sums - np.repeat(sums[first] - values[first], count)
