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
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if pixels.shape[-2:] == (size, size):
        return pixels.contiguous()
    return F.interpolate(
        pixels, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    ).contiguous()


def resize_masks(masks: np.ndarray, size: int) -> Tensor:
    """Masks bool [..., H, W] to bool [..., size, size]: each new pixel takes the nearest one.

    "nearest-exact" looks under the centre of the new pixel, as the mask logits do.
    """
    flat = torch.from_numpy(np.ascontiguousarray(masks)).to(torch.uint8)
    flat = flat.reshape(-1, 1, *masks.shape[-2:])
    resized = F.interpolate(flat, size=(size, size), mode="nearest-exact")
    return resized.bool().reshape(*masks.shape[:-2], size, size)


class Tiles(Protocol):
    """How the language model sees pixels: squares of one size."""

    size: int

    def image(self, image: np.ndarray) -> Tensor:
        """An image uint8 [H, W, 3] as tiles uint8 [N, 3, size, size]."""

    def frames(self, frames: np.ndarray) -> Tensor:
        """Video frames uint8 [T, H, W, 3] as one tile each: uint8 [T, 3, size, size]."""


class SingleTile:
    """The whole image in one tile."""

    def __init__(self, *, size: int) -> None:
        self.size = size

    def image(self, image: np.ndarray) -> Tensor:
        return resize_frames(image[None], self.size)

    def frames(self, frames: np.ndarray) -> Tensor:
        return resize_frames(frames, self.size)


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
