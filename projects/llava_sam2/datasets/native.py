"""Images at about their own size, for vision towers that take pictures of any shape."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from projects.llava_sam2.datasets.pixels import TILE_MODE, resize, resize_frames


class NativeResolution:
    """An image as one picture whose sides are multiples of what a visual token covers.

    The rule of Qwen2-VL and later (Wang et al., 2024): each side goes to the nearest multiple; an
    image with too many or too few tokens is scaled first, its aspect ratio kept. Video frames are
    squares of ``size``, one after another.

    Args:
        size: side of a video frame in pixels, a multiple of ``token``.
        token: side in pixels that a visual token covers: 28 of Qwen2.5-VL, 32 of Qwen3-VL.
        min_tokens, max_tokens: visual tokens of an image.

    Raises:
        ValueError: a size that tokens do not cover, or bounds between which there is no number.
    """

    def __init__(
        self, *, size: int = 448, token: int = 28, min_tokens: int = 512, max_tokens: int = 2048
    ) -> None:
        if size < token or size % token:
            raise ValueError(f"size {size} is no multiple of {token}, the side of a visual token")
        if not 1 <= min_tokens <= max_tokens:
            raise ValueError(
                f"tokens go from min_tokens >= 1 to max_tokens, got {min_tokens} to {max_tokens}"
            )
        self.size = size
        self.token = token
        self.min_tokens = min_tokens
        self.max_tokens = max_tokens

    @property
    def most(self) -> int:
        """The largest image, counted in video frames and rounded up."""
        return math.ceil(self.max_tokens * self.token**2 / self.size**2)

    def __repr__(self) -> str:
        return (
            f"NativeResolution({self.size}, {self.token}, {self.min_tokens} to {self.max_tokens})"
        )

    def count(self, height: int, width: int) -> float:
        """The size of an image, counted in video frames."""
        rows, columns = self.grid(height, width)
        return rows * columns * self.token**2 / self.size**2

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the visual tokens of an image of this size.

        Raises:
            ValueError: an image so narrow that its tokens cannot lie between the bounds.
        """
        rows, columns = round(height / self.token), round(width / self.token)
        pixels, covered = height * width, self.token**2
        if rows * columns > self.max_tokens:
            shrink = math.sqrt(pixels / (self.max_tokens * covered))
            rows = max(1, math.floor(height / shrink / self.token))
            columns = max(1, math.floor(width / shrink / self.token))
        elif rows * columns < self.min_tokens:
            grow = math.sqrt(self.min_tokens * covered / pixels)
            rows = math.ceil(height * grow / self.token)
            columns = math.ceil(width * grow / self.token)
        if not self.min_tokens <= rows * columns <= self.max_tokens:
            raise ValueError(
                f"an image of {height} x {width} pixels becomes {rows} x {columns} visual tokens, "
                f"and {self.min_tokens} to {self.max_tokens} are allowed: it is too narrow, or the "
                "bounds are too near"
            )
        return rows, columns

    def image(self, image: np.ndarray) -> Tensor:
        """An image uint8 [H, W, 3] as uint8 [1, 3, rows * token, columns * token]."""
        rows, columns = self.grid(*image.shape[:2])
        return resize(image[None], (rows * self.token, columns * self.token), TILE_MODE)

    def frames(self, frames: np.ndarray) -> Tensor:
        """Video frames uint8 [T, H, W, 3] as squares: uint8 [T, 3, size, size]."""
        return resize_frames(frames, self.size, mode=TILE_MODE)
