"""Region similarity J and boundary measure F of DAVIS (Perazzi et al., 2016; DAVIS 2017).

The numbers equal those of the DAVIS toolkit. The boundary measure matches pixels by a nearest-
neighbour query between the two boundaries instead of dilating whole images, which is the same
test (squared distances between pixels are integers) at the cost of the boundaries alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

BOUNDARY_TOLERANCE = 0.008  # of the image diagonal


def region_similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """IoU of two bool ``[H, W]`` masks in 0..1; 1 where both are empty."""
    _require_same_shape(prediction, truth)
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0


def boundary_measure(
    prediction: np.ndarray, truth: np.ndarray, *, tolerance: float = BOUNDARY_TOLERANCE
) -> float:
    """F-measure of the contours of two bool ``[H, W]`` masks in 0..1.

    A contour pixel counts as matched if the other contour passes within ``ceil(tolerance *
    diagonal)`` pixels. Without any contour in both masks F is 1, in one of them 0.
    """
    _require_same_shape(prediction, truth)
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    predicted = _boundary_pixels(prediction)
    true = _boundary_pixels(truth)
    if not len(predicted) or not len(true):
        return float(len(predicted) == len(true))
    precision = _matched(predicted, true, radius)
    recall = _matched(true, predicted, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mask_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a bool ``[H, W]`` mask that differ from the next one right, below or diagonally.

    At the last row and column only the neighbour inside of the image counts.
    """
    boundary = np.zeros_like(mask)
    horizontal = mask[:, :-1] ^ mask[:, 1:]
    vertical = mask[:-1] ^ mask[1:]
    boundary[:, :-1] |= horizontal
    boundary[:-1] |= vertical
    boundary[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return boundary


def _boundary_pixels(mask: np.ndarray) -> np.ndarray:
    """int ``[n, 2]`` (row, column) of the boundary, searched in the mask's surroundings only."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return np.zeros((0, 2), dtype=np.int64)
    columns = np.flatnonzero(mask.any(0))
    # one more pixel on every side: a boundary pixel may lie just left of or above the mask
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    crop = mask[top : rows[-1] + 2, left : columns[-1] + 2]
    return np.argwhere(mask_boundary(crop)) + (top, left)


def _matched(pixels: np.ndarray, others: np.ndarray, radius: int) -> float:
    """Share of ``pixels`` that have one of ``others`` within ``radius``."""
    reach = math.sqrt(radius * radius + 0.5)  # squared distances are integers
    distances, _ = cKDTree(others).query(pixels, distance_upper_bound=reach)
    return np.count_nonzero(np.isfinite(distances)) / len(pixels)


def sequence_scores(
    predictions: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    *,
    skip_first_and_last: bool = True,
) -> tuple[float, float]:
    """Mean J and mean F of one object over the frames of its video.

    Semi-supervised VOS skips the first frame (it is given) and, as DAVIS does, the last.

    Raises:
        ValueError: the numbers of frames differ, or skipping leaves none.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} predicted and {len(truths)} annotated frames")
    frames = range(len(truths))[1:-1] if skip_first_and_last else range(len(truths))
    if not frames:
        raise ValueError(
            f"{len(truths)} annotated frames: nothing is left to score without the first and last"
        )
    regions = [region_similarity(predictions[i], truths[i]) for i in frames]
    boundaries = [boundary_measure(predictions[i], truths[i]) for i in frames]
    return float(np.mean(regions)), float(np.mean(boundaries))


def _require_same_shape(prediction: np.ndarray, truth: np.ndarray) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(f"predicted mask is {prediction.shape}, annotated one {truth.shape}")
    if prediction.dtype != bool or truth.dtype != bool:
        raise ValueError(f"masks must be bool, got {prediction.dtype} and {truth.dtype}")
