"""Frames and masks at the sizes that the model works at. All in torch, uint8 in and out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def resize_frames(frames: np.ndarray, size: int) -> Tensor:
    """Frames uint8 [T, H, W, 3] to a square, aspect not kept: uint8 [T, 3, size, size]."""
    return resize(frames, (size, size))


def resize(frames: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Frames uint8 [T, H, W, 3] to uint8 [T, 3, height, width].

    Bicubic with antialiasing, as the released models saw InternVL's tiles and SAM 2's frames alike:
    what Pillow does by default. torch's rounds otherwise, by 2 of 255 at most, in less than one of
    100 values of a photograph.
    """
    resized = torch.empty((len(frames), 3, *size), dtype=torch.uint8)
    for frame, out in zip(frames, resized, strict=True):  # one by one stays within the cache
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(
                pixels, size=size, mode="bicubic", align_corners=False, antialias=True
            )
        out.copy_(pixels[0])
    return resized


def resize_masks(masks: np.ndarray, size: int) -> Tensor:
    """Masks bool [..., H, W] to bool [..., size, size]: each new pixel takes the nearest one.

    "nearest-exact" looks under the centre of the new pixel, as the mask logits do. Sa2VA's own
    training takes "nearest", which looks under its corner: at a quarter of the size, targets lie
    1.5 pixels to the right of and below what they are compared with.
    """
    flat = torch.from_numpy(np.ascontiguousarray(masks)).to(torch.uint8)
    flat = flat.reshape(-1, 1, *masks.shape[-2:])
    resized = F.interpolate(flat, size=(size, size), mode="nearest-exact")
    return resized.bool().reshape(*masks.shape[:-2], size, size)


class Tiles(Protocol):
    """How the language model sees pixels: squares of one size, or (native.py) whole pictures.

    What is no square counts as so many tiles as it has their pixels, which may be no whole number.
    """

    size: int
    most: int  # tiles of an image at most
    most_frame: int  # tiles of a video frame at most

    def count(self, height: int, width: int) -> float:
        """Tiles of an image of this size."""

    def count_frame(self, height: int, width: int) -> float:
        """Tiles of a video frame of this size."""

    def overview(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels of the last tile of an image, which shows the whole of it."""

    def image(self, image: np.ndarray) -> Tensor:
        """An image uint8 [H, W, 3] as tiles uint8 [N, 3, size, size], or as one [1, 3, h, w]."""

    def frames(self, frames: np.ndarray) -> Tensor:
        """Video frames uint8 [T, H, W, 3] as one picture each: uint8 [T, 3, h, w]."""


class Squares:
    """Base of tiles that are squares; a video frame is one.

    Args:
        size: side of a tile in pixels.
    """

    most_frame = 1

    def __init__(self, *, size: int) -> None:
        self.size = size

    def count_frame(self, height: int, width: int) -> int:
        return 1

    def overview(self, height: int, width: int) -> tuple[int, int]:
        return self.size, self.size

    def frames(self, frames: np.ndarray) -> Tensor:
        return resize_frames(frames, self.size)


class SingleTile(Squares):
    """The whole image in one tile."""

    most = 1

    def __repr__(self) -> str:
        return f"SingleTile({self.size})"

    def count(self, height: int, width: int) -> int:
        return 1

    def image(self, image: np.ndarray) -> Tensor:
        return resize_frames(image[None], self.size)


def check_bounds(what: str, least: int, most: int) -> None:
    """Raise ValueError where no number lies between the bounds, or the least is none."""
    if not 1 <= least <= most:
        raise ValueError(f"{what}: bounds are 1 <= min <= max, got {least} to {most}")


class DynamicTiles(Squares):
    """An image cut into as many tiles as its shape and size ask for, and a thumbnail of the whole.

    The rule of InternVL 1.5 and later (Chen et al., 2024): of all grids of ``min_tiles`` to
    ``max_tiles`` tiles, the one whose aspect ratio is nearest to the image's; among grids that are
    equally near, the one with more tiles if the image has more than half the pixels of its tiles.
    The image is stretched to the grid. A video frame is one tile.

    Args:
        size: side of a tile in pixels.
        min_tiles, max_tiles: how many tiles, the thumbnail not counted.
        thumbnail: add the whole image as the last tile, where there is more than one.

    Raises:
        ValueError: bounds between which there is no number.
    """

    def __init__(
        self, *, size: int, min_tiles: int = 1, max_tiles: int = 12, thumbnail: bool = True
    ) -> None:
        check_bounds("tiles (min_tiles, max_tiles)", min_tiles, max_tiles)
        super().__init__(size=size)
        self.min_tiles = min_tiles
        self.max_tiles = max_tiles
        self.thumbnail = thumbnail
        sides = range(1, max_tiles + 1)
        grids = [(w, h) for w in sides for h in sides if min_tiles <= w * h <= max_tiles]
        self.grids = sorted(grids, key=lambda grid: grid[0] * grid[1])  # fewest tiles first

    @property
    def most(self) -> int:
        """Tiles of an image at most."""
        return self.max_tiles + (self.thumbnail and self.max_tiles > 1)

    def __repr__(self) -> str:
        return (
            f"DynamicTiles({self.size}, {self.min_tiles} to {self.max_tiles}, "
            f"thumbnail={self.thumbnail})"
        )

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of tiles for an image of this size."""
        ratio, area = width / height, width * height
        best, nearest = self.grids[0], float("inf")
        for columns, rows in self.grids:
            away = abs(ratio - columns / rows)
            fills = area > 0.5 * self.size**2 * columns * rows
            if away < nearest or (away == nearest and fills):
                best, nearest = (columns, rows), away
        return best

    def count(self, height: int, width: int) -> int:
        columns, rows = self.grid(width, height)
        return columns * rows + (self.thumbnail and columns * rows > 1)

    def image(self, image: np.ndarray) -> Tensor:
        height, width = image.shape[:2]
        columns, rows = self.grid(width, height)
        whole = resize(image[None], (rows * self.size, columns * self.size))[0]
        tiles = whole.unflatten(2, (columns, self.size)).unflatten(1, (rows, self.size))
        tiles = tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)  # row by row
        if self.thumbnail and len(tiles) > 1:
            tiles = torch.cat([tiles, resize_frames(image[None], self.size)])
        return tiles.contiguous()


class HorizontalFlip:
    """Mirrors frames and masks, and swaps the words of the expression that a mirror swaps.

    Without ``words`` an expression like "the left one" would become false, so they are required.

    Args:
        probability: of a flip, per sample.
        words: e.g. ``{"left": "right", "leftmost": "rightmost"}``; meant both ways.
    """

    def __init__(self, *, probability: float, words: Mapping[str, str]) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"flip probability lies in 0..1, got {probability}")
        self.probability = probability
        self.words = {**words, **{after: before for before, after in words.items()}}

    def draw(self, generator: np.random.Generator) -> bool:
        return bool(generator.random() < self.probability)

    def text(self, expression: str) -> str:
        """The expression as it is true of the mirrored picture; whole words, any case."""
        return re.sub(r"[\w-]+", lambda m: self.words.get(m[0].lower(), m[0]), expression)
