"""From frames and words to what the model takes in.

Training, evaluation and the demo all go through one ``GroundingInputs``, so that a model is asked
the way it was trained: same tiles, same template, same sizes.
"""

from __future__ import annotations

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
        tokens_per_tile: visual tokens of one tile.
        grounding_size: side of SAM 2's square input.
        max_length: longest conversation in tokens.
        system: system text; None means the template's own.
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
        self.tokenizer = tokenizer
        self.template = template
        self.tiles = tiles
        self.tokens_per_tile = tokens_per_tile
        self.grounding_size = grounding_size
        self.max_length = max_length
        self.system = system

    def describe(self) -> str:
        """Every setting, in words: two recipes that ask differently read differently."""
        tiles = f"{type(self.tiles).__name__}({self.tiles.size})"
        return (
            f"{self.template} system={self.system!r} {tiles} "
            f"tokens_per_tile={self.tokens_per_tile} grounding_size={self.grounding_size} "
            f"max_length={self.max_length} vocabulary={len(self.tokenizer)}"
        )

    def pixel_values(self, frames: np.ndarray, *, video: bool) -> Tensor:
        """uint8 [N, 3, size, size] for the language model, of frames uint8 [T, H, W, 3]."""
        return self.tiles.frames(frames) if video else self.tiles.image(frames[0])

    def grounding_frames(self, frames: np.ndarray) -> Tensor:
        """uint8 [T, 3, S, S] for SAM 2."""
        return resize_frames(frames, self.grounding_size)

    def conversation(self, turns: Sequence[Turn], *, tiles: int, video: bool, name: str) -> Encoded:
        """Ids and labels of a conversation about an image of ``tiles`` tiles or a video of as many
        frames; the pictures stand before the first question."""
        (question, answer), *rest = turns
        placed, tokens = self._place(question, tiles, video)
        return encode_conversation(
            self.tokenizer,
            [(placed, answer), *rest],
            self.template,
            image_tokens=tokens,
            system=self.system,
            max_length=self.max_length,
            name=name,
        )

    def prompt(self, question: str, *, tiles: int, video: bool, name: str) -> Tensor:
        """Ids [L] up to where the model answers."""
        placed, tokens = self._place(question, tiles, video)
        return prompt_ids(
            self.tokenizer,
            placed,
            self.template,
            image_tokens=tokens,
            system=self.system,
            name=name,
        )

    def _place(self, question: str, tiles: int, video: bool) -> tuple[str, int]:
        """The question behind its pictures, and the visual tokens of each picture.

        All tiles of an image are one picture; each frame of a video is a picture of its own.
        """
        if video:
            return f"{IMAGE_PLACEHOLDER}\n" * tiles + question, self.tokens_per_tile
        return f"{IMAGE_PLACEHOLDER}\n{question}", tiles * self.tokens_per_tile
