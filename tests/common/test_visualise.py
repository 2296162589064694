"""Overlays, strips and their bytes, against values computed by hand."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from projects.common import visualise
from projects.common.visualise import PALETTE, PREDICTION, TRUTH


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((20, 30, 3), 100, dtype=np.uint8)


@pytest.fixture
def square() -> np.ndarray:
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 8:22] = True
    return mask


def test_overlay_tints_inside_outlines_the_edge_and_leaves_the_rest(grey, square) -> None:
    colour = (200, 0, 50)
    out = visualise.overlay(grey, square[None], colours=[colour], opacity=0.5, contour=2)
    inner = ndimage.binary_erosion(square, iterations=2, border_value=1)
    halo = ndimage.binary_dilation(square) & ~square
    assert (out[inner] == (150, 50, 75)).all()
    assert (out[square & ~inner] == colour).all()
    assert (out[halo] == 255).all()
    assert (out[~square & ~halo] == 100).all()
    assert (grey == 100).all(), "the input is not written to"


def test_dim_fades_only_what_no_mask_covers(grey, square) -> None:
    out = visualise.overlay(grey, square[None], opacity=0.0, contour=0, dim=1.0)
    assert (out[square] == 100).all()
    assert (out[~square] == 45).all()
    empty = visualise.overlay(grey, np.zeros((0, 20, 30), dtype=bool), dim=1.0)
    assert (empty == 45).all()


def test_each_mask_has_its_own_colour_and_the_palette_repeats(grey) -> None:
    masks = np.zeros((8, 20, 30), dtype=bool)
    for index in range(8):
        masks[index, :, index * 3 : index * 3 + 3] = True
    out = visualise.overlay(grey, masks, opacity=1.0, contour=0)
    for index in range(8):
        assert (out[0, index * 3] == PALETTE[index % len(PALETTE)]).all()


def test_a_mask_cut_by_the_border_stays_open_there(grey) -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[:, :10] = True
    out = visualise.overlay(grey, mask[None], colours=[(255, 0, 0)], opacity=0.0, contour=1)
    assert (out[0, 0] == 100).all()
    assert (out[:, 9] == (255, 0, 0)).all()


def test_enlarging_keeps_the_shape_of_a_mask() -> None:
    y, x = np.mgrid[:64, :64]
    small = (x - 30) ** 2 + (y - 33) ** 2 < 15**2
    y, x = (np.mgrid[:256, :256] + 0.5) / 4 - 0.5
    large = (x - 30) ** 2 + (y - 33) ** 2 < 15**2
    grown = visualise.enlarge_mask(small, 4)
    staircase = np.kron(small, np.ones((4, 4))).astype(bool)

    def iou(mask: np.ndarray) -> float:
        return (mask & large).sum() / (mask | large).sum()

    assert iou(grown) > 0.96 and iou(grown) > iou(staircase)
    assert abs(ndimage.center_of_mass(grown)[1] - ndimage.center_of_mass(large)[1]) < 0.1
    out = visualise.overlay(np.zeros((64, 64, 3), np.uint8), small[None], scale=4)
    assert out.shape == (256, 256, 3)


def test_legible_scale() -> None:
    assert visualise.legible_scale(np.zeros((128, 96, 3), np.uint8)) == 2
    assert visualise.legible_scale(np.zeros((480, 640, 3), np.uint8)) == 1


def test_row_aligns_heights_and_keeps_the_proportions() -> None:
    a = np.zeros((40, 60, 3), np.uint8)
    b = np.full((20, 10, 3), 50, np.uint8)
    out = visualise.row([a, b], gap=5)
    assert out.shape == (40, 60 + 5 + 20, 3)
    assert (out[:, :60] == 0).all() and (out[:, 60:65] == 255).all() and (out[:, 65:] == 50).all()


def test_compare_puts_the_prediction_left_and_the_truth_right(grey, square) -> None:
    moved = np.roll(square, 3, axis=1)
    out = visualise.compare(grey, square, moved, scale=2)
    left, right = out[:, :60], out[:, -60:]
    assert (left[20, 17] == PREDICTION).all()
    assert (right[20, 23] == TRUTH).all()
    assert not (right == np.asarray(PREDICTION)).all(axis=-1).any()


def test_film_strip_wants_a_mask_for_every_frame(grey, square) -> None:
    strip = visualise.film_strip([grey, grey, grey], [square, ~square, square], gap=4)
    assert strip.shape == (20, 98, 3)
    with pytest.raises(ValueError, match="3 frames but 2 masks"):
        visualise.film_strip([grey, grey, grey], [square, square])


def test_evenly_spreads_and_keeps_both_ends() -> None:
    assert visualise.evenly(5, 8) == [0, 1, 2, 3, 4]
    assert visualise.evenly(11, 6) == [0, 2, 4, 6, 8, 10]
    picked = visualise.evenly(37, 6)
    assert picked[0] == 0 and picked[-1] == 36 and len(set(picked)) == 6


def test_png_bytes_are_lossless_and_jpeg_bytes_are_close(grey, square) -> None:
    image = visualise.overlay(grey, square[None])
    assert (np.asarray(Image.open(io.BytesIO(visualise.encode(image, "png")))) == image).all()
    address = visualise.data_uri(image, "jpeg")
    head, _, body = address.partition(",")
    assert head == "data:image/jpeg;base64"
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))).astype(int)
    assert np.abs(back - image).mean() < 8
    with pytest.raises(ValueError, match="unknown image format 'gif'"):
        visualise.encode(image, "gif")


def test_wrong_shapes_are_refused(grey, square) -> None:
    with pytest.raises(ValueError, match="do not fit the image"):
        visualise.overlay(grey, square.T[None])
    with pytest.raises(ValueError, match="need uint8"):
        visualise.overlay(grey.astype(np.float32), square[None])
