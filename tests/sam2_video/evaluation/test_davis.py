"""J and F against the straightforward computation on whole images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from projects.sam2_video.evaluation.davis import (
    boundary_measure,
    boundary_radius,
    frame_scores,
    region_similarity,
)
from tools.bench.vos_scores import SIZES, cases, plain_contour, plain_scores

TOLERANCE = 1e-9


def blob(rng, height, width):
    noise = ndimage.gaussian_filter(rng.standard_normal((height, width)), rng.uniform(1, 8))
    return noise > rng.normal(0, noise.std())


def test_the_reference_contour_is_the_definition():
    """Pixel by pixel, so that the reference itself stands on something."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = rng.random((7, 9)) > 0.5
        expected = np.zeros_like(mask)
        for y, x in np.ndindex(mask.shape):
            near = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            expected[y, x] = any(mask[p] != mask[y, x] for p in near if p[0] < 7 and p[1] < 9)
        assert np.array_equal(plain_contour(mask), expected)


@pytest.mark.parametrize("shape", [(48, 64), (150, 211), (9, 140), (300, 127)])
def test_smooth_masks(shape):
    rng = np.random.default_rng(1)
    values = []
    for _ in range(12):
        truth = blob(rng, *shape)
        prediction = np.roll(truth, rng.integers(-6, 7, 2), (0, 1)) ^ (rng.random(shape) > 0.998)
        expected = plain_scores(prediction, truth)
        assert frame_scores(prediction, truth) == pytest.approx(expected, abs=TOLERANCE)
        values.append(expected[1])
    assert min(values) < 0.95 and len({round(value, 6) for value in values}) > 4


def test_any_size_and_any_density():
    """Rows of one pixel, of exactly a word and one more; masks from empty to full."""
    rng = np.random.default_rng(2)
    widths = [1, 2, 3, 62, 63, 64, 65, 127, 128, 129, 200]
    densities = [0, 0.002, 0.01, 0.5, 0.99, 1]
    for number in range(1500):
        shape = (int(rng.integers(1, 40)), int(rng.choice(widths)))
        shape = shape[::-1] if number % 3 == 0 else shape
        prediction, truth = (rng.random(shape) < rng.choice(densities) for _ in range(2))
        tolerance = float(rng.choice([0.008, 0.05, 0.6]))
        expected = plain_scores(prediction, truth, tolerance=tolerance)
        found = frame_scores(prediction, truth, tolerance=tolerance)
        assert found == pytest.approx(expected, abs=TOLERANCE), (shape, tolerance)


def test_single_pixels_at_borders_and_corners():
    shape = (40, 66)
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    masks = [empty, full]
    for y, x in ((0, 0), (39, 65), (0, 65), (39, 0), (0, 63), (20, 63), (20, 64), (25, 30)):
        pixel = empty.copy()
        pixel[y, x] = True
        masks.append(pixel)
    masks += [~mask for mask in masks[2:]]
    corner = empty.copy()
    corner[30:, 50:] = True
    masks.append(corner)
    for prediction in masks:
        for truth in masks:
            expected = plain_scores(prediction, truth)
            assert frame_scores(prediction, truth) == pytest.approx(expected, abs=TOLERANCE)


def test_real_sizes():
    for masks in cases(*SIZES["480p"]).values():
        assert frame_scores(*masks) == pytest.approx(plain_scores(*masks), abs=TOLERANCE)


def test_masks_that_are_views():
    """Not contiguous in memory, as slices of a [T, H, W] array are."""
    rng = np.random.default_rng(3)
    stack = rng.random((50, 70, 4)) > 0.6
    prediction, truth = stack[..., 0], stack[::-1, :, 1]
    expected = plain_scores(prediction.copy(), truth.copy())
    assert frame_scores(prediction, truth) == pytest.approx(expected, abs=TOLERANCE)


def test_region_similarity_by_hand():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert region_similarity(a, b) == 1 and frame_scores(a, b) == (1, 1)
    a[:2] = True
    assert region_similarity(a, b) == 0 and frame_scores(a, b) == (0, 0)
    b[1:3] = True
    assert region_similarity(a, b) == pytest.approx(4 / 12)
    assert frame_scores(a, b)[0] == pytest.approx(4 / 12)


def test_the_tolerance_is_met_exactly_at_its_radius():
    assert boundary_radius((300, 400)) == 4  # 0.008 of a diagonal of 500
    truth, near, far = (np.zeros((300, 400), bool) for _ in range(3))
    truth[:, :200] = True
    near[:, :204] = True
    far[:, :205] = True
    assert boundary_measure(near, truth) == 1
    assert boundary_measure(far, truth) == 0


def test_masks_of_another_size_or_kind_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(4, 5\)"):
        region_similarity(np.zeros((4, 4), bool), np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(4, 5\)"):
        frame_scores(np.zeros((4, 4), bool), np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match="uint8"):
        frame_scores(np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool))
