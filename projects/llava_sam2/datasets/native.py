"""Images at about their own size, for vision towers that take pictures of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from projects.llava_sam2.datasets.pixels import check_bounds, resize


class NativeResolution:
    """An image as one picture whose sides are multiples of what a visual token covers.

    The rule of Qwen2-VL and later (Wang et al., 2024): each side goes to the nearest multiple; an
    image with too many or too few tokens is scaled first, its aspect ratio kept. Video frames are
    images one after another, under bounds of their own, as Sa2VA trains on Qwen-VL.

    Args:
        size: side in pixels of the square in which pictures are counted, a multiple of ``token``.
        token: side in pixels that a visual token covers: 28 of Qwen2.5-VL, 32 of Qwen3-VL.
        min_tokens, max_tokens: visual tokens of an image.
        frame_tokens: the fewest and the most visual tokens of a video frame; None: frames are
            squares of ``size``.

    Raises:
        ValueError: a size that tokens do not cover, or bounds between which there is no number.
    """

    def __init__(
        self,
        *,
        size: int = 448,
        token: int = 28,
        min_tokens: int = 512,
        max_tokens: int = 2048,
        frame_tokens: Sequence[int] | None = None,
    ) -> None:
        if size < token or size % token:
            raise ValueError(f"size {size} is no multiple of {token}, the side of a visual token")
        check_bounds("tokens of an image (min_tokens, max_tokens)", min_tokens, max_tokens)
        if frame_tokens is not None:
            if len(frame_tokens) != 2:
                raise ValueError(f"frame_tokens are the fewest and the most, got {frame_tokens}")
            check_bounds("tokens of a frame (frame_tokens)", *frame_tokens)
        self.size = size
        self.token = token
        self.min_tokens = min_tokens
        self.max_tokens = max_tokens
        self.frame_tokens = None if frame_tokens is None else tuple(frame_tokens)

    @property
    def most(self) -> int:
        """The largest image, counted in squares and rounded up."""
        return self._most(self.max_tokens)

    @property
    def most_frame(self) -> int:
        """The largest video frame, counted alike."""
        return 1 if self.frame_tokens is None else self._most(self.frame_tokens[1])

    def __repr__(self) -> str:
        frames = "" if self.frame_tokens is None else ", frames {} to {}".format(*self.frame_tokens)
        return (
            f"NativeResolution({self.size}, {self.token}, {self.min_tokens} to {self.max_tokens}"
            f"{frames})"
        )

    def count(self, height: int, width: int) -> float:
        """The size of an image, counted in squares."""
        return self._area(self.overview(height, width))

    def count_frame(self, height: int, width: int) -> float:
        """The size of a video frame, counted in squares."""
        return self._area(self._frame(height, width))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the visual tokens of an image of this size.

        Raises:
            ValueError: an image so narrow that its tokens cannot lie between the bounds.
        """
        return self._fit(height, width, self.min_tokens, self.max_tokens)

    def overview(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels that an image of this size is brought to."""
        rows, columns = self.grid(height, width)
        return rows * self.token, columns * self.token

    def image(self, image: np.ndarray) -> Tensor:
        """An image uint8 [H, W, 3] as uint8 [1, 3, rows * token, columns * token]."""
        return resize(image[None], self.overview(*image.shape[:2]))

    def frames(self, frames: np.ndarray) -> Tensor:
        """Video frames uint8 [T, H, W, 3], each as an image is or as a square: [T, 3, h, w]."""
        return resize(frames, self._frame(*frames.shape[1:3]))

    def _frame(self, height: int, width: int) -> tuple[int, int]:
        if self.frame_tokens is None:
            return self.size, self.size
        rows, columns = self._fit(height, width, *self.frame_tokens)
        return rows * self.token, columns * self.token

    def _area(self, size: tuple[int, int]) -> float:
        return size[0] * size[1] / self.size**2

    def _most(self, tokens: int) -> int:
        return math.ceil(tokens * self.token**2 / self.size**2)

    def _fit(self, height: int, width: int, least: int, most: int) -> tuple[int, int]:
        rows, columns = round(height / self.token), round(width / self.token)
        pixels, covered = height * width, self.token**2
        if rows * columns > most:
            shrink = math.sqrt(pixels / (most * covered))
            rows = max(1, math.floor(height / shrink / self.token))
            columns = max(1, math.floor(width / shrink / self.token))
        elif rows * columns < least:
            grow = math.sqrt(least * covered / pixels)
            rows = math.ceil(height * grow / self.token)
            columns = math.ceil(width * grow / self.token)
        if not least <= rows * columns <= most:
            raise ValueError(
                f"an image of {height} x {width} pixels becomes {rows} x {columns} visual tokens, "
                f"and {least} to {most} are allowed: it is too narrow, or the bounds are too near"
            )
        return rows, columns
