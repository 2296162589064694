"""J and F against a straightforward computation on whole images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from projects.sam2_video.evaluation.davis import (
    boundary_measure,
    region_similarity,
)


def plain_boundary(mask):
    """The definition, pixel by pixel."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            inside = [mask[j, i] for j, i in neighbours if j < height and i < width]
            out[y, x] = any(value != mask[y, x] for value in inside)
    return out


def plain_boundary_measure(prediction, truth):
    radius = math.ceil(0.008 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    offsets = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (offsets**2).sum(0) <= radius**2
    a, b = plain_boundary(prediction), plain_boundary(truth)
    if not a.any() or not b.any():
        return 1.0 if a.any() == b.any() else 0.0
    precision = (a & ndimage.binary_dilation(b, disk)).sum() / a.sum()
    recall = (b & ndimage.binary_dilation(a, disk)).sum() / b.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def blob(rng, height, width):
    noise = ndimage.gaussian_filter(rng.standard_normal((height, width)), rng.uniform(1, 8))
    return noise > rng.normal(0, noise.std())


@pytest.mark.parametrize("shape", [(48, 64), (150, 211), (9, 140)])
def test_boundary_measure_on_random_masks(shape):
    rng = np.random.default_rng(1)
    values = []
    for _ in range(12):
        truth = blob(rng, *shape)
        prediction = np.roll(truth, rng.integers(-6, 7, 2), (0, 1)) ^ (rng.random(shape) > 0.998)
        expected = plain_boundary_measure(prediction, truth)
        assert boundary_measure(prediction, truth) == pytest.approx(expected, abs=1e-12)
        values.append(expected)
    assert min(values) < 0.95 and len({round(value, 6) for value in values}) > 4


def test_boundary_measure_of_edge_cases():
    shape = (40, 60)
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    masks = [empty, full]
    for y, x in ((0, 0), (39, 59), (0, 59), (39, 0), (20, 30), (20, 31), (25, 30)):
        pixel = empty.copy()
        pixel[y, x] = True
        masks.append(pixel)
    corner = empty.copy()
    corner[30:, 50:] = True
    masks.append(corner)
    for prediction in masks:
        for truth in masks:
            expected = plain_boundary_measure(prediction, truth)
            assert boundary_measure(prediction, truth) == pytest.approx(expected, abs=1e-12)


def test_region_similarity_by_hand():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert region_similarity(a, b) == 1
    a[:2] = True
    assert region_similarity(a, b) == 0
    b[1:3] = True
    assert region_similarity(a, b) == pytest.approx(4 / 12)


def test_the_tolerance_is_met_exactly_at_its_radius():
    # diagonal of 300 x 400 is 500: the radius is 4
    truth, near, far = (np.zeros((300, 400), bool) for _ in range(3))
    truth[:, :200] = True
    near[:, :204] = True
    far[:, :205] = True
    assert boundary_measure(near, truth) == 1
    assert boundary_measure(far, truth) == 0


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(4, 5\)"):
        region_similarity(np.zeros((4, 4), bool), np.zeros((4, 5), bool))
