"""Scene changes by colour."""

from __future__ import annotations

import numpy as np
import pytest

from projects.common.scenes import colour_histogram, count_scene_changes, histogram_distance

RED, PINK, GREEN = (200, 20, 20), (205, 60, 60), (20, 200, 20)


def picture(left, right, size=(32, 48)):
    frame = np.zeros((*size, 3), np.uint8)
    frame[:, : size[1] // 2] = left
    frame[:, size[1] // 2 :] = right
    return frame


def test_the_distance_is_bhattacharyyas():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (1024, 1024, 3), dtype=np.uint8) for _ in range(2))
    second[:512] = (10, 200, 30)
    a, b = colour_histogram(first).ravel(), colour_histogram(second).ravel()
    assert a.shape == (4800,) and a.sum() == 1024 * 1024
    expected = np.sqrt(1 - np.sqrt(a / a.sum() * (b / b.sum())).sum())
    found = histogram_distance(colour_histogram(first), colour_histogram(second))
    assert found == pytest.approx(expected, abs=1e-5)
    assert histogram_distance(a, a) == pytest.approx(0, abs=1e-3)


def test_hue_and_saturation_make_the_bins():
    counts = colour_histogram(picture(RED, GREEN, (1024, 1024)))
    hue, saturation = np.nonzero(counts)
    # OpenCV's hue runs from 0 to 180, so a bin is 3 wide: red 0, green 60
    assert sorted(zip(hue.tolist(), saturation.tolist(), strict=True)) == [(0, 71), (20, 71)]


def test_changes_are_counted_between_neighbours():
    same, other = picture(RED, GREEN), picture(GREEN, GREEN)
    blue = picture((20, 20, 200), (20, 20, 200))
    assert count_scene_changes([same, same, same]) == 0
    assert count_scene_changes([same, blue, blue, same]) == 2
    assert count_scene_changes([same, other]) == 1  # half of the picture: distance 0.54
    assert count_scene_changes([same, other], threshold=0.6) == 0
    assert count_scene_changes([]) == 0
