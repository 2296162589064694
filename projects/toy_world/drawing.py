"""Pixels of the toy world: background, shapes with smooth edges, painted back to front.

H, W frame size; T frames; N things. Only element-wise numpy, so that the same seed gives the same
bytes whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Word -> colour. Far apart from each other and from the grey background.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 44, 48),
    "green": (48, 152, 66),
    "blue": (46, 92, 208),
    "yellow": (240, 208, 52),
    "purple": (146, 66, 178),
    "white": (238, 236, 230),
}


@dataclass(frozen=True)
class Figure:
    """``corners`` equal spokes, tips at ``reach`` and notches at ``notch`` times the radius.

    The first tip points up, turned by ``turn``.
    """

    corners: int
    reach: float
    notch: float
    turn: float = 0.0


# Word -> figure; None is a disc. Reaches are chosen so that areas at one radius are comparable.
SHAPES: dict[str, Figure | None] = {
    "circle": None,
    "square": Figure(4, 1.22, 1.22 * np.cos(np.pi / 4), turn=np.pi / 4),
    "triangle": Figure(3, 1.38, 1.38 * np.cos(np.pi / 3)),
    "star": Figure(5, 1.36, 0.58),
}

_EDGE = 1.6  # pixels of darker rim: two shapes of one colour stay apart where they overlap
_RIM_SHADE = 0.62


@dataclass(frozen=True)
class Stamp:
    """One drawn shape on its patch of the frame.

    Attributes:
        rows, columns: the patch, slices into the frame.
        depth: pixels inside the outline, float [h, w] (negative outside).
    """

    rows: slice
    columns: slice
    depth: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """Pixels of the shape, bool [h, w]."""
        return self.depth >= 0


def stamp(
    shape: str, centre: np.ndarray, radius: float, angle: float, height: int, width: int
) -> Stamp:
    """Rasterise a shape at ``centre`` (x, y), turned by ``angle``; clipped by the frame."""
    reach = 1.4 * radius + 2
    left, right = _span(centre[0], reach, width)
    top, bottom = _span(centre[1], reach, height)
    x = np.arange(left, right, dtype=np.float64)[None, :] + 0.5 - centre[0]
    y = np.arange(top, bottom, dtype=np.float64)[:, None] + 0.5 - centre[1]
    return Stamp(slice(top, bottom), slice(left, right), _depth(SHAPES[shape], x, y, radius, angle))


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth grey noise of two scales with a slight tint, float32 [H, W, 3]."""
    level = rng.uniform(96, 142) + rng.uniform(-9, 9, size=3)
    picture = np.zeros((height, width, 3), np.float32) + level.astype(np.float32)
    for cells, contrast in ((4, 11.0), (13, 5.0)):
        grey = _smooth_noise(rng, cells, height, width, channels=1)
        tint = _smooth_noise(rng, cells, height, width, channels=3)
        picture += contrast * grey + 0.35 * contrast * tint
    return picture


def paint(frame: np.ndarray, drawn: Stamp, colour: np.ndarray) -> None:
    """Paint a stamp over ``frame`` (float32 [H, W, 3]) in place: lit from above, darker rim."""
    height = max(drawn.depth.shape[0] - 1, 1)
    light = 1.07 - 0.16 * np.arange(drawn.depth.shape[0], dtype=np.float32)[:, None] / height
    rim = np.clip(drawn.depth / _EDGE, 0, 1) * (1 - _RIM_SHADE) + _RIM_SHADE
    paint_layer = (light * rim)[..., None].astype(np.float32) * colour.astype(np.float32)
    cover = np.clip(drawn.depth + 0.5, 0, 1)[..., None].astype(np.float32)
    patch = frame[drawn.rows, drawn.columns]
    patch += cover * (paint_layer - patch)


def finish(rng: np.random.Generator, frame: np.ndarray) -> np.ndarray:
    """Add a little sensor noise and round to uint8."""
    noise = rng.integers(-5, 6, size=frame.shape, dtype=np.int8)
    return np.clip(frame + noise + 0.5, 0, 255).astype(np.uint8)


def _span(centre: float, reach: float, side: int) -> tuple[int, int]:
    low = int(np.clip(np.floor(centre - reach), 0, side))
    return low, max(low, int(np.clip(np.ceil(centre + reach), 0, side)))


def _depth(
    figure: Figure | None, x: np.ndarray, y: np.ndarray, radius: float, angle: float
) -> np.ndarray:
    """Distance to the outline, positive inside.

    All spokes are alike: folding the plane into half a spoke leaves one straight edge, from the
    tip to the notch.
    """
    distance = np.hypot(x, y)
    if figure is None:
        return radius - distance
    half = np.pi / figure.corners
    turned = np.arctan2(x, -y) - angle - figure.turn
    folded = np.abs((turned + half) % (2 * half) - half)
    tip = np.array([figure.reach * radius, 0.0])
    notch = figure.notch * radius * np.array([np.cos(half), np.sin(half)])
    edge = notch - tip
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    along, across = distance * np.cos(folded), distance * np.sin(folded)
    return -(normal[0] * (along - tip[0]) + normal[1] * (across - tip[1]))


def _smooth_noise(
    rng: np.random.Generator, cells: int, height: int, width: int, channels: int
) -> np.ndarray:
    """Value noise in [-1, 1]: random numbers on a grid, joined smoothly, float32 [H, W, C]."""
    grid = rng.uniform(-1, 1, size=(cells + 1, cells + 1, channels)).astype(np.float32)
    row, across_rows = _weights(cells, height)
    column, across_columns = _weights(cells, width)
    across_rows, across_columns = across_rows[:, None, None], across_columns[None, :, None]
    lines = grid[row] * (1 - across_rows) + grid[row + 1] * across_rows
    return lines[:, column] * (1 - across_columns) + lines[:, column + 1] * across_columns


def _weights(cells: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    place = (np.arange(side, dtype=np.float32) + 0.5) * (cells / side)
    cell = np.minimum(place.astype(np.int64), cells - 1)
    part = place - cell
    return cell, part * part * (3 - 2 * part)
