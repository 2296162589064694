"""RLE, polygons, PNGs, boxes and contours against pycocotools, PIL and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from scipy import ndimage

from projects.common.masks import (
    decode_polygons,
    decode_rle,
    decode_segmentation,
    draw_contour,
    encode_rle,
    mask_to_box,
    mask_to_polygons,
    read_binary_png,
    read_palette_png,
    segmentation_area,
    union,
    write_binary_png,
    write_palette_png,
)


def blobs(seed: int, height: int = 47, width: int = 61) -> np.ndarray:
    """A random mask of several parts, some touching the border or each other's corners."""
    noise = np.random.default_rng(seed).standard_normal((height, width))
    smooth = ndimage.gaussian_filter(noise, 1 + seed % 3)
    return smooth > np.quantile(smooth, 0.7)


@pytest.mark.parametrize("seed", range(8))
def test_rle_agrees_with_pycocotools(seed: int) -> None:
    mask = blobs(seed)
    rle = encode_rle(mask)
    assert rle["size"] == [47, 61] and isinstance(rle["counts"], str)
    np.testing.assert_array_equal(coco.decode(rle).astype(bool), mask)
    np.testing.assert_array_equal(decode_rle(rle, where="x"), mask)
    as_bytes = {"size": rle["size"], "counts": rle["counts"].encode()}
    np.testing.assert_array_equal(decode_rle(as_bytes, where="x"), mask)


@pytest.mark.parametrize("value", [False, True])
def test_rle_of_an_even_mask(value: bool) -> None:
    mask = np.full((5, 7), value)
    np.testing.assert_array_equal(decode_rle(encode_rle(mask), where="x"), mask)


def test_rle_of_large_runs() -> None:
    mask = np.zeros((1080, 1920), bool)
    mask[500:503, 900:1800] = True
    np.testing.assert_array_equal(decode_rle(encode_rle(mask), where="x"), mask)


def test_plain_counts_run_down_the_columns_from_background() -> None:
    mask = decode_rle({"size": [2, 3], "counts": [1, 2, 3]}, where="x")
    np.testing.assert_array_equal(mask, [[0, 1, 0], [1, 0, 0]])


def broken(**changes: object) -> dict[str, object]:
    return {**encode_rle(blobs(0)), **changes}


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (broken(counts=encode_rle(blobs(0))["counts"][:-3]), "cover|middle of a run"),
        (broken(counts=encode_rle(blobs(0))["counts"] + "11"), "cover"),
        (broken(counts="P"), "middle of a run"),
        (broken(counts=""), "empty"),
        (broken(counts="1 ~"), "none of its characters"),
        (broken(counts="5é"), "broken RLE"),
        (broken(counts="o" * 30 + "0"), "too long"),
        (broken(counts="2O"), "negative"),
        (broken(counts=[5, -5, 47 * 61]), "run 1 is negative"),
        (broken(counts=[1, 2, 3]), "cover 6 pixels"),
        (broken(counts=[1.5, 2]), "whole numbers"),
        (broken(counts=None), "counts must be"),
        (broken(size=[61, 46]), "cover"),
        (broken(size=[47]), "height, width"),
        (broken(size=[0, 61]), "height, width"),
        ({"counts": "1"}, "height, width"),
        ("1234", "dict with size"),
    ],
)
def test_broken_rle_raises_and_says_where(rle: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        decode_rle(rle, where="masks.json anno 7")
    assert str(caught.value).startswith("masks.json anno 7: ")


def test_rle_of_another_size_raises() -> None:
    with pytest.raises(ValueError, match="ann 3: the RLE is 47x61 .*, its image 61x47"):
        decode_segmentation(encode_rle(blobs(0)), 61, 47, where="ann 3")


def test_polygon_of_a_rectangle_covers_its_pixels() -> None:
    mask = decode_polygons([[2, 1, 6, 1, 6, 4, 2, 4]], 8, 9, where="x")
    expected = np.zeros((8, 9), bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("seed", range(8))
def test_polygons_round_trip_but_for_holes(seed: int) -> None:
    mask = blobs(seed)
    polygons = mask_to_polygons(mask)
    assert len(polygons) == ndimage.label(ndimage.binary_fill_holes(mask), np.ones((3, 3)))[1]
    decoded = decode_segmentation(polygons, *mask.shape, where="x")
    np.testing.assert_array_equal(decoded, ndimage.binary_fill_holes(mask))


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([], "expected a list of polygons"),
        (None, "expected a list of polygons"),
        ([[1, 2, 3, 4]], "polygon 0: 4 numbers"),
        ([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]], "polygon 1: 7 numbers"),
        ([[1, 2, 3, 4, 5, "6"]], "'6' is not a coordinate"),
        ([[1, 2, 3, 4, 5, float("nan")]], "nan is not a coordinate"),
        ([1, 2, 3, 4, 5, 6], "polygon 0: expected a flat list"),
        ([[1, 2, 3, 4, 500, 6]], "x runs from 1 to 500"),
    ],
)
def test_broken_polygons_raise_and_say_where(polygons: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        decode_segmentation(polygons, 20, 30, where="instances.json ann_id 5")
    assert str(caught.value).startswith("instances.json ann_id 5: ")


def test_box_is_exclusive_at_its_end() -> None:
    mask = np.zeros((10, 12), bool)
    assert mask_to_box(mask) is None
    mask[3:5, 7] = True
    assert mask_to_box(mask) == (7, 3, 8, 5)
    mask[9, 11] = True
    assert mask_to_box(mask) == (7, 3, 12, 10)


def test_union() -> None:
    a, b = blobs(0), blobs(1)
    np.testing.assert_array_equal(union(iter([a, b])), a | b)
    with pytest.raises(ValueError, match="no masks"):
        union([])
    with pytest.raises(ValueError, match="different sizes"):
        union([a, b[:5]])


def test_palette_png_keeps_ids_and_has_the_davis_palette(tmp_path) -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_palette_png(tmp_path / "m.png", ids)
    np.testing.assert_array_equal(read_palette_png(tmp_path / "m.png"), ids)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P"
        colours = np.array(image.convert("RGB")).reshape(-1, 3)
    np.testing.assert_array_equal(
        colours[:7],
        [
            [0, 0, 0],
            [128, 0, 0],
            [0, 128, 0],
            [128, 128, 0],
            [0, 0, 128],
            [128, 0, 128],
            [0, 128, 128],
        ],
    )
    assert colours[255].tolist() == [224, 224, 192] and len({tuple(c) for c in colours}) == 256
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]


def test_ids_are_read_from_grey_png_and_refused_from_colours(tmp_path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(ids).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_palette_png(tmp_path / "grey.png"), ids)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "rgb.png")
    for read in (read_palette_png, read_binary_png):
        with pytest.raises(ValueError, match=r"rgb\.png: .* is RGB"):
            read(tmp_path / "rgb.png")


def test_binary_png_round_trip_and_other_writers(tmp_path) -> None:
    mask = blobs(2)
    write_binary_png(tmp_path / "own.png", mask)
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "grey.png")
    write_palette_png(tmp_path / "palette.png", mask.astype(np.uint8))
    for name in ("own", "grey", "palette"):
        np.testing.assert_array_equal(read_binary_png(tmp_path / f"{name}.png"), mask)
    with Image.open(tmp_path / "own.png") as image:
        np.testing.assert_array_equal(np.array(image), mask)


def test_missing_and_truncated_png_name_the_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        read_palette_png(tmp_path / "no.png")
    path = tmp_path / "cut.png"
    write_palette_png(path, np.random.default_rng(0).integers(0, 9, (99, 99), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"cut\.png: the mask does not decode"):
        read_palette_png(path)
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cut\.png: the mask does not decode"):
        read_binary_png(path)


def test_contour_is_drawn_around_the_mask_on_a_copy() -> None:
    image = np.full((30, 30, 3), 50, np.uint8)
    mask = np.zeros((30, 30), bool)
    mask[10:20, 8:22] = True
    drawn = draw_contour(image, mask, (0, 255, 0), thickness=1)
    green = (drawn == (0, 255, 0)).all(axis=2)
    np.testing.assert_array_equal(green, mask & ~ndimage.binary_erosion(mask, np.ones((3, 3))))
    assert (drawn[~green] == 50).all() and (image == 50).all()
    with pytest.raises(ValueError, match="differ in size"):
        draw_contour(image, mask[:5], (0, 255, 0))


def test_the_area_of_a_segmentation_is_that_of_its_mask():
    generator = np.random.default_rng(5)
    mask = generator.random((13, 22)) > 0.7
    polygons = [[1.5, 2, 9, 2.5, 8, 11], [4, 4, 19.25, 4, 19, 12, 5, 9]]  # they overlap
    plain = {"size": [3, 4], "counts": [2, 5, 5]}
    outside = [[-5, -5, -1, -5, -1, -1]]  # beyond the border
    for segmentation, size in (
        *((encode_rle(mask), (13, 22)), (plain, (3, 4))),
        *((polygons, (13, 22)), (outside, (13, 22))),
    ):
        drawn = decode_segmentation(segmentation, *size, where="test")
        assert segmentation_area(segmentation, *size, where="test") == drawn.sum()
    for broken in ([[1, 2, 3]], [], {"size": [13, 22], "counts": [3]}, encode_rle(mask[:5])):
        with pytest.raises(ValueError, match="file 7"):
            segmentation_area(broken, 13, 22, where="file 7")
