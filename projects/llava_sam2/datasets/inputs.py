"""From frames and words to what the model takes in.

Training, evaluation and the demo all go through one ``GroundingInputs``, so that a model is asked
the way it was trained: same tiles, same template, same sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from projects.common.conversation import (
    IMAGE_PLACEHOLDER,
    Encoded,
    encode_conversation,
    prompt_ids,
)
from projects.llava_sam2.datasets.pixels import Tiles, resize_frames

Turn = tuple[str, str]  # question, answer


class GroundingInputs:
    """Pixels and conversations of one recipe.

    Args:
        tokenizer: with the project's special tokens (``conversation.load_tokenizer``).
        template: name of the chat template.
        tiles: how the language model sees pixels.
        tokens_per_tile: visual tokens of one tile, a square of ``tiles.size``; pictures of other
            sizes have as many for their area.
        grounding_size: side of SAM 2's square input.
        max_length: longest conversation in tokens.
        system: system text; None means the template's own.

    Raises:
        ValueError: the most tiles of an image would leave no room for words.
    """

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        tiles: Tiles,
        tokens_per_tile: int,
        grounding_size: int,
        max_length: int = 8192,
        system: str | None = None,
    ) -> None:
        if tiles.most * tokens_per_tile >= max_length:
            raise ValueError(
                f"an image may take {tiles.most} tiles of {tokens_per_tile} tokens, and "
                f"max_length={max_length} leaves no room for words: raise it, or use fewer tiles"
            )
        self.tokenizer = tokenizer
        self.template = template
        self.tiles = tiles
        self.tokens_per_tile = tokens_per_tile
        self.grounding_size = grounding_size
        self.max_length = max_length
        self.system = system

    def describe(self) -> str:
        """Every setting, in words: two recipes that ask differently read differently."""
        return (
            f"{self.template} system={self.system!r} {self.tiles!r} "
            f"tokens_per_tile={self.tokens_per_tile} grounding_size={self.grounding_size} "
            f"max_length={self.max_length} vocabulary={len(self.tokenizer)}"
        )

    def pixel_values(self, frames: np.ndarray, *, video: bool) -> Tensor:
        """uint8 [N, 3, h, w] for the language model, of frames uint8 [T, H, W, 3]."""
        return self.tiles.frames(frames) if video else self.tiles.image(frames[0])

    def grounding_frames(self, frames: np.ndarray) -> Tensor:
        """uint8 [T, 3, S, S] for SAM 2."""
        return resize_frames(frames, self.grounding_size)

    def conversation(
        self,
        turns: Sequence[Turn],
        *,
        tiles: int | Tensor,
        video: bool,
        name: str,
        region_tokens: Sequence[int] = (),
    ) -> Encoded:
        """Ids and labels of a conversation about an image, a video, or nothing to be seen.

        Args:
            tiles: of :meth:`pixel_values`, or the number of square ones (0: nothing is seen).
            turns: the pictures stand where a question says ``<image>``, else before the first one.
            region_tokens: see :func:`encode_conversation`.
        """
        return self._encode(turns, self._areas(tiles), video, name, region_tokens)

    def _encode(
        self,
        turns: Sequence[Turn],
        areas: float,
        video: bool,
        name: str,
        region_tokens: Sequence[int],
    ) -> Encoded:
        placed, tokens = self._place([question for question, _ in turns], areas, video)
        return encode_conversation(
            self.tokenizer,
            [(question, answer) for question, (_, answer) in zip(placed, turns, strict=True)],
            self.template,
            image_tokens=tokens,
            region_tokens=region_tokens,
            system=self.system,
            max_length=self.max_length,
            name=name,
        )

    def length(
        self,
        turns: Sequence[Turn],
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        name: str,
        region_tokens: Sequence[int] = (),
    ) -> int:
        """Tokens that :meth:`conversation` will have, visual ones included; no pixel is read.

        Args:
            size: (height, width) of the image that it is about.
            frames: or the number of frames of the video. Neither: words alone.
        """
        areas = frames or (0 if size is None else self.tiles.count(*size))
        encoded = self._encode(turns, areas, frames is not None, name, region_tokens)
        return len(encoded.input_ids)

    def prompt(
        self,
        question: str,
        *,
        tiles: int | Tensor,
        video: bool,
        name: str,
        region_tokens: Sequence[int] = (),
    ) -> Tensor:
        """Ids [L] up to where the model answers; ``tiles`` as in :meth:`conversation`."""
        (placed,), tokens = self._place([question], self._areas(tiles), video)
        return prompt_ids(
            self.tokenizer,
            placed,
            self.template,
            image_tokens=tokens,
            region_tokens=region_tokens,
            system=self.system,
            name=name,
        )

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Rows and columns of the visual tokens of a tile or picture ``[N, 3, h, w]``."""
        side = math.isqrt(self.tokens_per_tile)
        height, width = pixel_values.shape[-2:]
        return height * side // self.tiles.size, width * side // self.tiles.size

    def _areas(self, tiles: int | Tensor) -> float:
        """How many squares of ``tiles.size`` the pictures are worth."""
        if isinstance(tiles, int):
            return tiles
        return len(tiles) * tiles.shape[-2] * tiles.shape[-1] / self.tiles.size**2

    def _place(self, questions: Sequence[str], areas: float, video: bool) -> tuple[list[str], int]:
        """The questions with their pictures, and the visual tokens of each picture.

        All tiles of an image are one picture; each frame of a video is a picture of its own, and a
        square.
        """
        if not areas:
            return list(questions), 0
        if not any(IMAGE_PLACEHOLDER in question for question in questions):
            questions = [f"{IMAGE_PLACEHOLDER}\n{questions[0]}", *questions[1:]]
        pictures = "\n".join([IMAGE_PLACEHOLDER] * (int(areas) if video else 1))
        placed = [question.replace(IMAGE_PLACEHOLDER, pictures) for question in questions]
        return placed, self.tokens_per_tile if video else round(areas * self.tokens_per_tile)
