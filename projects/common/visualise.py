"""Masks on pictures, pictures side by side, film strips, and their bytes for a page or a file.

Images are ``uint8 [H, W, 3]`` RGB, masks ``bool [N, H, W]``, colours ``(r, g, b)`` in 0..255.
Overlays are drawn after enlarging, so that the outline of a 128 px toy frame is a thin smooth line
and not a staircase.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

# Okabe and Ito's palette (Color Universal Design, 2008): told apart with any colour vision.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)
PREDICTION: Colour = (255, 121, 0)
TRUTH: Colour = (0, 214, 170)
_MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg"}


def legible_scale(image: np.ndarray, minimum: int = 256) -> int:
    """Whole factor by which a small image must grow for its longer side to reach ``minimum``."""
    return max(1, -(-minimum // max(image.shape[:2])))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``image`` resampled (Lanczos) to ``size`` = (width, height)."""
    _check_image(image)
    if size == (image.shape[1], image.shape[0]):
        return image.copy()
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """``image`` with both sides multiplied by ``scale``."""
    return resize(image, (image.shape[1] * scale, image.shape[0] * scale))


def enlarge_mask(mask: np.ndarray, scale: int) -> np.ndarray:
    """``mask`` ``bool [H, W]`` with both sides multiplied by ``scale`` and its corners rounded."""
    if scale == 1:
        return mask.astype(bool)
    soft = Image.fromarray(mask.astype(np.uint8) * 255)
    size = (mask.shape[1] * scale, mask.shape[0] * scale)
    return np.asarray(soft.resize(size, Image.Resampling.BILINEAR)) >= 128


def overlay(
    image: np.ndarray,
    masks: np.ndarray,
    *,
    colours: Sequence[Colour] = PALETTE,
    opacity: float = 0.45,
    contour: int = 2,
    dim: float = 0.0,
    scale: int = 1,
) -> np.ndarray:
    """Tint what the masks cover and draw their outlines.

    Args:
        image: ``uint8 [H, W, 3]``.
        masks: ``bool [N, H, W]``; later masks lie on top. N may be 0.
        colours: the colour of mask ``i`` is ``colours[i % len(colours)]``.
        opacity: weight of the tint inside a mask, 0..1.
        contour: width of the outline in pixels of the result; 0 draws none. A hairline of white
            around it keeps it visible on a background of its own colour.
        dim: how far everything outside all masks fades to dark grey, 0..1.
        scale: whole factor by which the result is larger than the image.

    Returns:
        ``uint8 [H * scale, W * scale, 3]``, a new array.

    Raises:
        ValueError: shapes that do not belong together.
    """
    _check_image(image)
    masks = np.asarray(masks, dtype=bool)
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(f"masks {masks.shape} do not fit the image {image.shape}: need [N, H, W]")
    canvas = enlarge(image, scale).astype(np.float32)
    grown = [enlarge_mask(mask, scale) for mask in masks]
    if dim:
        outside = ~np.any(grown, axis=0) if grown else np.ones(canvas.shape[:2], dtype=bool)
        grey = canvas[outside].mean(axis=-1, keepdims=True) * 0.45
        canvas[outside] += dim * (grey - canvas[outside])
    for index, mask in enumerate(grown):
        colour = np.asarray(colours[index % len(colours)], dtype=np.float32)
        canvas[mask] += opacity * (colour - canvas[mask])
        if contour:
            canvas[_dilate(mask, 1) & ~mask] = 255.0
            canvas[mask & ~_erode(mask, contour)] = colour
    return canvas.round().clip(0, 255).astype(np.uint8)


def row(images: Sequence[np.ndarray], *, gap: int = 6, background: int = 255) -> np.ndarray:
    """Images from left to right, ``gap`` pixels apart, all brought to the first one's height."""
    if not images:
        raise ValueError("no images to put in a row")
    height = images[0].shape[0]
    panels = [resize(i, (max(1, round(i.shape[1] * height / i.shape[0])), height)) for i in images]
    width = sum(panel.shape[1] for panel in panels) + gap * (len(panels) - 1)
    canvas = np.full((height, width, 3), background, dtype=np.uint8)
    left = 0
    for panel in panels:
        canvas[:, left : left + panel.shape[1]] = panel
        left += panel.shape[1] + gap
    return canvas


def compare(
    image: np.ndarray,
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    point: tuple[int, int] | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """Prediction (left, orange) and ground truth (right, green) on the same image.

    ``prediction`` and ``truth`` are ``bool [H, W]``; ``point`` is the clicked pixel (x, y).
    """
    scale = legible_scale(image) if scale is None else scale
    predicted = marked(image, prediction, PREDICTION, scale)
    if point is not None:
        predicted = draw_point(predicted, point, scale)
    return row([predicted, marked(image, truth, TRUTH, scale)])


def draw_point(image: np.ndarray, point: tuple[int, int], scale: int = 1) -> np.ndarray:
    """A copy with a dot on pixel ``point`` = (x, y), counted before enlarging by ``scale``."""
    canvas = Image.fromarray(image)
    x, y = ((value + 0.5) * scale - 0.5 for value in point)
    radius = 2.0 + 1.5 * scale
    box = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(canvas).ellipse(box, fill=PREDICTION, outline=(255, 255, 255), width=2)
    return np.array(canvas)


def marked(image: np.ndarray, mask: np.ndarray, colour: Colour, scale: int) -> np.ndarray:
    """One mask ``bool [H, W]`` outlined in ``colour``, its surroundings faded.

    Nothing is tinted: an expression may be about the colour of what it names.
    """
    return overlay(
        image, mask[None], colours=[colour], opacity=0.0, contour=scale + 1, dim=0.55, scale=scale
    )


def evenly(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices out of ``count``, evenly spread, first and last among them."""
    if wanted < 1:
        raise ValueError(f"at least one frame must be shown, not {wanted}")
    if count <= wanted:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, wanted).round()]


def film_strip(
    frames: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    *,
    colour: Colour = PREDICTION,
    scale: int = 1,
    gap: int = 4,
) -> np.ndarray:
    """Frames of a video in a row, each with its mask ``bool [H, W]``."""
    if len(frames) != len(masks):
        raise ValueError(f"{len(frames)} frames but {len(masks)} masks")
    pairs = zip(frames, masks, strict=True)
    return row([marked(frame, mask, colour, scale) for frame, mask in pairs], gap=gap)


def encode(image: np.ndarray, kind: str = "jpeg", *, quality: int = 88) -> bytes:
    """The image as the bytes of a ``"jpeg"`` or ``"png"`` file."""
    _check_image(image)
    if kind not in _MEDIA_TYPES:
        raise ValueError(f"unknown image format {kind!r}: use one of {sorted(_MEDIA_TYPES)}")
    options = {"quality": quality, "subsampling": 0} if kind == "jpeg" else {"optimize": True}
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind, **options)
    return buffer.getvalue()


def data_uri(image: np.ndarray, kind: str = "jpeg") -> str:
    """The image as a ``data:`` address, so that a page needs no second file."""
    return f"data:{_MEDIA_TYPES[kind]};base64,{base64.b64encode(encode(image, kind)).decode()}"


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image {image.dtype} {image.shape}: need uint8 [H, W, 3]")


def _dilate(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Grow by ``pixels`` in the four directions; what lies beyond the border counts as empty."""
    for _ in range(pixels):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def _erode(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Shrink by ``pixels``; a mask cut by the border stays open there."""
    return ~_dilate(~mask, pixels)
