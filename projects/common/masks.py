"""Masks in files: RLE, polygons, PNG, boxes and contours.

A mask is numpy ``bool [H, W]``. This is the only file that knows pycocotools. RLE and polygons
follow the COCO format: runs go down the columns and start with background; polygon corners lie
on the grid between pixels, so (0, 0) is the outer corner of the first pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco

from projects.common.whole_file import whole_file

Rle = dict[str, Any]

_MAX_GROUPS = 7  # characters of one run: 35 bits, more than any mask has pixels


def encode_rle(mask: np.ndarray) -> Rle:
    """Compress a mask [H, W] to ``{"size": [H, W], "counts": str}``, ready for JSON."""
    _check_mask(mask)
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(
    rle: Mapping[str, Any], *, where: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode compressed (text) or plain (list) RLE to a mask, bool [H, W].

    Args:
        rle: ``{"size": [H, W], "counts": str | bytes | list[int]}``.
        where: file and record, named in errors.
        size: (height, width) that the mask must have; None takes the RLE's own.

    Raises:
        ValueError: the RLE is not whole, or not of this size. pycocotools reads past the end of
            broken counts, so the runs are checked against H * W before anything is drawn.
    """
    runs = rle_runs(rle, where=where, size=size)
    height, width = rle["size"]
    values = np.zeros(len(runs), dtype=bool)
    values[1::2] = True
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def rle_area(rle: Mapping[str, Any], *, where: str) -> int:
    """Pixels of an RLE, without drawing it; raises for broken ones as :func:`decode_rle`."""
    return int(rle_runs(rle, where=where)[1::2].sum())


def rle_runs(
    rle: Mapping[str, Any], *, where: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Run lengths of an RLE, int64, background first, down the columns; they cover it exactly.

    Raises:
        ValueError: as :func:`decode_rle`.
    """
    height, width = _rle_size(rle, where)
    if size is not None and (height, width) != tuple(size):
        raise ValueError(
            f"{where}: the RLE is {height}x{width} (height x width), its image {size[0]}x{size[1]};"
            " the annotation belongs to another image or to another resolution of it"
        )
    return _whole_runs(rle, height, width, where)


def decode_polygons(polygons: Any, height: int, width: int, *, where: str) -> np.ndarray:
    """Fill COCO polygons (flat ``x, y, x, y, ...`` lists in pixels) to one mask, bool [H, W].

    Raises:
        ValueError: no polygon, not numbers, an odd count, fewer than three corners, or corners
            more than an image away from the image; the message says which polygon.
    """
    return decode_rle(_polygons_rle(polygons, height, width, where), where=where)


def decode_segmentation(segmentation: Any, height: int, width: int, *, where: str) -> np.ndarray:
    """Decode a COCO ``segmentation``, polygons or RLE, to a mask, bool [height, width]."""
    if isinstance(segmentation, Mapping):
        return decode_rle(segmentation, where=where, size=(height, width))
    return decode_polygons(segmentation, height, width, where=where)


def segmentation_area(segmentation: Any, height: int, width: int, *, where: str) -> int:
    """Pixels of a COCO ``segmentation``; several times faster than drawing it.

    Raises for broken ones as :func:`decode_segmentation`.
    """
    if isinstance(segmentation, Mapping):
        return int(rle_runs(segmentation, where=where, size=(height, width))[1::2].sum())
    return int(coco.area(_polygons_rle(segmentation, height, width, where)))


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a mask as COCO polygons, one a connected part; holes are not represented.

    Decoding them gives back the mask with its holes filled, exactly: at twice the size, the
    centres of border pixels lie a quarter pixel inside the outline, which rounds the right way.
    """
    _check_mask(mask)
    double = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour[:, 0] + 0.5) / 2).ravel().tolist() for contour in contours]


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Smallest box ``(x1, y1, x2, y2)`` around a mask, x2 and y2 exclusive; None if empty."""
    _check_mask(mask)
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def union(masks: Iterable[np.ndarray]) -> np.ndarray:
    """Pixels of any of the masks, bool [H, W]; raises for none or for different sizes."""
    masks = list(masks)
    if not masks:
        raise ValueError("the union of no masks has no size; pass at least one")
    sizes = {mask.shape for mask in masks}
    if len(sizes) > 1:
        raise ValueError(f"masks of different sizes cannot be joined: {sorted(sizes)}")
    return np.logical_or.reduce(masks)


def draw_contour(
    image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], thickness: int = 2
) -> np.ndarray:
    """A copy of an RGB image, uint8 [H, W, 3], with the outer contours of a mask drawn on it."""
    _check_mask(mask)
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image {image.shape[:2]} and mask {mask.shape} differ in size")
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    drawn = np.ascontiguousarray(image).copy()
    return cv2.drawContours(drawn, contours, -1, colour, thickness)


def read_palette_png(path: str | Path) -> np.ndarray:
    """Object ids of a palette (or grey) PNG, uint8 [H, W]; 0 is background.

    Raises:
        FileNotFoundError, ValueError: missing, not readable, or colours instead of ids.
    """
    return _read_png(path, modes=("P", "L"))


def read_palette(path: str | Path) -> list[int] | None:
    """The colours of a palette PNG, red, green and blue in turn; None of a grey one."""
    try:
        with Image.open(path) as image:
            return image.getpalette()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such mask") from error


def write_palette_png(
    path: str | Path, ids: np.ndarray, palette: Sequence[int] | None = None
) -> None:
    """Write object ids, uint8 [H, W], as a PNG with a palette, by default DAVIS's."""
    if ids.dtype != np.uint8 or ids.ndim != 2:
        raise ValueError(f"{path}: expected ids uint8 [H, W], found {ids.dtype} {ids.shape}")
    image = Image.fromarray(ids)
    image.putpalette(_PALETTE if palette is None else palette)
    _save_png(path, image)


def read_binary_png(path: str | Path) -> np.ndarray:
    """The mask of a one-object PNG (bilevel, grey or palette), bool [H, W]: every value but 0."""
    return _read_png(path, modes=("1", "L", "P")) > 0


def write_binary_png(path: str | Path, mask: np.ndarray) -> None:
    """Write one mask [H, W] as a bilevel PNG."""
    _check_mask(mask)
    _save_png(path, Image.fromarray(mask.astype(bool)))


def _polygons_rle(polygons: Any, height: int, width: int, where: str) -> Any:
    """pycocotools' own RLE of what the polygons fill."""
    if not isinstance(polygons, Sequence) or isinstance(polygons, str | bytes) or not polygons:
        raise ValueError(f"{where}: expected a list of polygons, found {_shown(polygons)}")
    for number, polygon in enumerate(polygons):
        _check_polygon(polygon, height, width, f"{where}: polygon {number}")
    rles = coco.frPyObjects([[float(value) for value in p] for p in polygons], height, width)
    return coco.merge(rles)


def _check_mask(mask: np.ndarray) -> None:
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions (height, width), this one is {mask.shape}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _rle_size(rle: Any, where: str) -> tuple[int, int]:
    if not isinstance(rle, Mapping):
        raise ValueError(f"{where}: an RLE is a dict with size and counts, found {_shown(rle)}")
    size = rle.get("size")
    if (
        not isinstance(size, Sequence)
        or len(size) != 2
        or not all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise ValueError(f"{where}: RLE size must be [height, width], found {_shown(size)}")
    return size[0], size[1]


def _whole_runs(rle: Mapping[str, Any], height: int, width: int, where: str) -> np.ndarray:
    """Run lengths that cover the mask exactly."""
    runs = _rle_runs(rle.get("counts"), where)
    total = int(runs.sum())
    if total != height * width:
        raise ValueError(
            f"{where}: broken RLE, its runs cover {total} pixels but {height}x{width} are "
            f"{height * width}; the record is cut or its size is wrong, write it again"
        )
    return runs


def _rle_runs(counts: Any, where: str) -> np.ndarray:
    if isinstance(counts, str | bytes):
        runs = _compressed_runs(counts, where)
    elif isinstance(counts, Sequence) and all(type(count) is int for count in counts):
        runs = np.asarray(counts, dtype=np.int64)
    else:
        raise ValueError(
            f"{where}: RLE counts must be text or a list of whole numbers, found {_shown(counts)}"
        )
    if len(runs) and runs.min() < 0:
        raise ValueError(f"{where}: broken RLE, run {int(runs.argmin())} is negative")
    return runs


def _compressed_runs(counts: str | bytes, where: str) -> np.ndarray:
    """Run lengths of COCO's compressed text.

    A run is written in groups of 5 bits, the lowest first, one printable character each (value +
    48); bit 6 says that more groups follow, bit 5 of the last is the sign. From the fourth run
    on, the number is the difference to the run two before.
    """
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: broken RLE, counts hold {error.object[error.start]!r}"
        ) from error
    groups = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(groups) == 0:
        raise ValueError(f"{where}: broken RLE, counts are empty")
    if groups.min() < 0 or groups.max() > 63:
        bad = int(np.flatnonzero((groups < 0) | (groups > 63))[0])
        raise ValueError(
            f"{where}: broken RLE, {text[bad : bad + 1]!r} at {bad} is none of its characters"
        )
    ends = np.flatnonzero(groups < 32)
    if len(ends) == 0 or ends[-1] != len(groups) - 1:
        raise ValueError(
            f"{where}: broken RLE, counts stop in the middle of a run; the text is cut"
        )
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_GROUPS:
        raise ValueError(f"{where}: broken RLE, run {int(lengths.argmax())} is too long a number")
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((groups & 31) << (5 * place), starts)
    runs -= np.where(groups[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _check_polygon(polygon: Any, height: int, width: int, where: str) -> None:
    if not isinstance(polygon, Sequence) or isinstance(polygon, str | bytes):
        raise ValueError(f"{where}: expected a flat list x, y, x, y, ..., found {_shown(polygon)}")
    for value in polygon:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{where}: {_shown(value)} is not a coordinate")
    if len(polygon) % 2 or len(polygon) < 6:
        raise ValueError(
            f"{where}: {len(polygon)} numbers; a polygon has x and y of at least three corners"
        )
    for values, side, name in ((polygon[0::2], width, "x"), (polygon[1::2], height, "y")):
        if min(values) < -side or max(values) > 2 * side:
            raise ValueError(
                f"{where}: {name} runs from {min(values)} to {max(values)} in an image of "
                f"{height}x{width} (height x width); the annotation belongs to another image"
            )


def _read_png(path: str | Path, modes: Sequence[str]) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode not in modes:
                raise ValueError(
                    f"{path}: a mask PNG holds ids (modes {', '.join(modes)}), this one is "
                    f"{image.mode}; save it with a palette or as 8-bit grey ids, not as colours"
                )
            # Asking for the mode it has keeps palette indices as they are.
            return np.array(image, dtype=np.uint8)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such mask; are the annotations complete?") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path}: the mask does not decode ({error}); write it again") from error


def _save_png(path: str | Path, image: Image.Image) -> None:
    with whole_file(path) as partial:
        image.save(partial, format="PNG")


def _davis_palette() -> list[int]:
    """PASCAL VOC's and DAVIS's 256 colours: bit k of an id is bit 7 - k // 3 of channel k % 3."""
    colours = []
    for index in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            colour[bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
        colours += colour
    return colours


_PALETTE = _davis_palette()
