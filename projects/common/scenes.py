"""Scene changes by colour, as SeC's inference finds them (Zhang et al., 2025).

Hue x saturation histograms of neighbouring frames are compared by Bhattacharyya's distance; a new
scene begins where it exceeds 0.35.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

BINS = (60, 80)  # of hue and of saturation
SIDE = 1024  # frames are compared at this size
THRESHOLD = 0.35


def colour_histogram(frame: np.ndarray) -> np.ndarray:
    """Hue x saturation counts of RGB uint8 [H, W, 3], float32 [60, 80]."""
    if frame.shape[:2] != (SIDE, SIDE):
        frame = cv2.resize(frame, (SIDE, SIDE))
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
    return cv2.calcHist([hsv], [0, 1], None, list(BINS), [0, 180, 0, 256])


def histogram_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Bhattacharyya's distance, 0 (alike) to 1 (nothing in common)."""
    return float(cv2.compareHist(first, second, cv2.HISTCMP_BHATTACHARYYA))


def count_scene_changes(frames: Iterable[np.ndarray], threshold: float = THRESHOLD) -> int:
    """How often a frame differs from the one before by more than ``threshold``."""
    changes, previous = 0, None
    for frame in frames:
        histogram = colour_histogram(frame)
        if previous is not None and histogram_distance(previous, histogram) > threshold:
            changes += 1
        previous = histogram
    return changes
