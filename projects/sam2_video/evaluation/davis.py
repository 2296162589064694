"""Region similarity J and boundary measure F of DAVIS (Perazzi et al., 2016; DAVIS 2017).

The numbers are those of the DAVIS toolkit and of SA-V's evaluator: contours by comparing shifted
masks, and a contour pixel is matched if the other contour, dilated by a disk, covers it. Here one
word holds 64 pixels of a row, and only the surroundings of the two masks are looked at, so that the
whole-image dilation, which costs the toolkits their time, becomes a few shifts of short arrays.

    masks bool [H, W] ─► box around both ─► rows of uint64 ─┬─► and, count ─────────────────► J
                                                            └─► contours ─► dilate, and ────► F
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

BOUNDARY_TOLERANCE = 0.008  # of the image diagonal
WORD = 64  # pixels in a word; pixel x of a row is bit x % 64 of word x // 64


def frame_scores(
    prediction: np.ndarray, truth: np.ndarray, *, tolerance: float = BOUNDARY_TOLERANCE
) -> tuple[float, float]:
    """J and F of two bool ``[H, W]`` masks, both in 0..1.

    A contour pixel counts as matched if the other contour passes within ``ceil(tolerance *
    diagonal)`` pixels. Where both masks are empty both scores are 1. Without a contour in both
    masks F is 1, in one of them 0.

    Raises:
        ValueError: the masks differ in size or are not bool.
    """
    _require_alike(prediction, truth)
    box = _surroundings(prediction, truth)
    if box is None:
        return 1.0, 1.0
    radius = boundary_radius(truth.shape, tolerance)
    predicted, true = (_pack(mask[box], radius) for mask in (prediction, truth))
    return _region(predicted, true), _boundary(predicted, true, radius)


def region_similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """J alone: the IoU, 1 where both are empty."""
    _require_alike(prediction, truth)
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0


def boundary_measure(
    prediction: np.ndarray, truth: np.ndarray, *, tolerance: float = BOUNDARY_TOLERANCE
) -> float:
    """F alone, see :func:`frame_scores`."""
    return frame_scores(prediction, truth, tolerance=tolerance)[1]


def boundary_radius(shape: tuple[int, ...], tolerance: float = BOUNDARY_TOLERANCE) -> int:
    """How many pixels two contours may lie apart in an image of (height, width)."""
    return math.ceil(tolerance * math.hypot(*shape))


class _Packed(NamedTuple):
    """A mask of ``words // stride`` rows; at least a radius of zeros parts a row from the next."""

    words: np.ndarray  # uint64 [rows * stride]
    stride: int  # words of a row
    inside: np.ndarray  # uint64 [stride]: the bits of a row that are pixels


def _surroundings(prediction: np.ndarray, truth: np.ndarray) -> tuple[slice, slice] | None:
    """The box of both masks and one more pixel around, where there is one; None: both empty.

    A contour pixel may lie just left of a mask or above it; right and below, the pixel outside
    tells a contour from the edge of the image.
    """
    rows = np.flatnonzero(prediction.any(1) | truth.any(1))
    if not len(rows):
        return None
    height = slice(max(rows[0] - 1, 0), rows[-1] + 2)
    columns = np.flatnonzero(prediction[height].any(0) | truth[height].any(0))
    return height, slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _pack(mask: np.ndarray, radius: int) -> _Packed:
    """Pixels to bits; the column behind the last one repeats it, so that it is no contour."""
    height, width = mask.shape
    stride = -(-(width + 1 + radius) // WORD)
    padded = np.zeros((height, stride * WORD), dtype=bool)
    padded[:, :width] = mask
    padded[:, width] = mask[:, -1]
    inside = np.zeros(stride * WORD, dtype=bool)
    inside[:width] = True
    return _Packed(_words(padded), stride, _words(inside))


def _words(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits.ravel(), bitorder="little").view("<u8").astype(np.uint64, copy=False)


def _count(words: np.ndarray) -> int:
    return int(np.bitwise_count(words).sum())


def _region(predicted: _Packed, true: _Packed) -> float:
    def area(words: np.ndarray) -> int:
        return _count(words.reshape(-1, true.stride) & true.inside)

    union = area(predicted.words | true.words)
    return area(predicted.words & true.words) / union


def _boundary(predicted: _Packed, true: _Packed, radius: int) -> float:
    ours, theirs = _contour(predicted), _contour(true)
    count, others = _count(ours), _count(theirs)
    if not count or not others:
        return float(count == others)
    precision = _count(ours & _dilate(theirs, true.stride, radius)) / count
    recall = _count(theirs & _dilate(ours, true.stride, radius)) / others
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _contour(mask: _Packed) -> np.ndarray:
    """Pixels that differ from the next one right, below or diagonally.

    At the last row and column only the neighbour inside of the image counts.
    """
    here = mask.words
    right = _shifted(here, -1)
    contour = here ^ right
    for next_row in (here, right):  # below the last row it is repeated
        contour[: -mask.stride] |= here[: -mask.stride] ^ next_row[mask.stride :]
        contour[-mask.stride :] |= here[-mask.stride :] ^ next_row[-mask.stride :]
    return (contour.reshape(-1, mask.stride) & mask.inside).ravel()


def _dilate(contour: np.ndarray, stride: int, radius: int) -> np.ndarray:
    """All pixels within ``radius`` of a contour pixel: for every offset in height, the rows
    widened by the half chord of the disk at that height."""
    dilated = np.zeros_like(contour)
    widened, reach = contour, 0
    for offset in range(radius, -1, -1):  # the chords get longer
        chord = math.isqrt(radius * radius - offset * offset)
        while reach < chord:
            step = min(chord - reach, 2 * reach + 1, WORD - 1)  # longer ones would leave gaps
            widened = widened | _shifted(widened, step) | _shifted(widened, -step)
            reach += step
        rows = offset * stride
        if rows < len(contour):
            dilated[rows:] |= widened[: len(contour) - rows]
            dilated[: len(contour) - rows] |= widened[rows:]
    return dilated


def _shifted(words: np.ndarray, step: int) -> np.ndarray:
    """The picture moved by ``step`` pixels, 1 to 63, to the right (positive) or left."""
    here, carry = np.uint64(abs(step)), np.uint64(WORD - abs(step))
    if step > 0:
        moved = words << here
        moved[1:] |= words[:-1] >> carry
    else:
        moved = words >> here
        moved[:-1] |= words[1:] << carry
    return moved


def _require_alike(prediction: np.ndarray, truth: np.ndarray) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(f"predicted mask is {prediction.shape}, annotated one {truth.shape}")
    if prediction.dtype != bool or truth.dtype != bool:
        raise ValueError(f"masks must be bool, got {prediction.dtype} and {truth.dtype}")
