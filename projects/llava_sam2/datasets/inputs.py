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
from projects.llava_sam2.datasets.pointing import (
    check_masks,
    check_overview,
    cover_grid,
    with_regions,
)
from projects.llava_sam2.structures import square_side

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

    def regions(
        self, masks: np.ndarray, pixel_values: Tensor, *, size: tuple[int, int], name: str
    ) -> Tensor:
        """The visual tokens that stand for regions of an image.

        Args:
            masks: bool [R, H, W] at the image's own size.
            pixel_values: of :meth:`pixel_values`.
            size: (height, width) of the image.
            name: of the image, in errors.

        Returns:
            bool [R, rows, columns] on the grid of the last tile.

        Raises:
            ValueError: masks of another size, an empty one, or tiles none of which shows the whole.
        """
        check_overview(self.tiles)
        check_masks(masks, size, name)
        return cover_grid(masks, self.grid(pixel_values))

    def conversation(
        self,
        turns: Sequence[Turn],
        *,
        tiles: int | Tensor,
        video: bool,
        name: str,
        regions: Tensor | None = None,
    ) -> Encoded:
        """Ids and labels of a conversation about an image, a video, or nothing to be seen.

        Args:
            tiles: of :meth:`pixel_values`, or the number of square ones (0: nothing is seen).
            turns: the pictures stand where a question says ``<image>``, else before the first one.
            regions: of :meth:`regions`; they stand where questions say ``<region>``, one each. If
                none does, an introduction names them region1, region2, ... behind the pictures.
        """
        return self._encode(turns, self._pictures(tiles, video), name, _tokens(regions))

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
            size: (height, width) of the image or video that it is about; None: words alone, or
                frames as large as they come.
            frames: the number of frames of a video; None: it is an image.
            region_tokens: visual tokens of each region.
        """
        tiles: float = 0
        if frames is not None:
            tiles = self.tiles.most_frame if size is None else self.tiles.count_frame(*size)
        elif size is not None:
            tiles = self.tiles.count(*size)
        number = 1 if frames is None else frames
        pictures = (number, round(tiles * self.tokens_per_tile)) if tiles else (0, 0)
        return len(self._encode(turns, pictures, name, region_tokens).input_ids)

    def prompt(
        self,
        question: str,
        *,
        tiles: int | Tensor,
        video: bool,
        name: str,
        regions: Tensor | None = None,
    ) -> Tensor:
        """Ids [L] up to where the model answers; arguments as in :meth:`conversation`."""
        number, tokens = self._pictures(tiles, video)
        region_tokens = _tokens(regions)
        (placed,) = _place([question], number, len(region_tokens))
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
        height, width = pixel_values.shape[-2:]
        return self._grid(height, width)

    def overview_grid(self, height: int, width: int) -> tuple[int, int]:
        """The grid on which regions of an image of this size lie."""
        return self._grid(*self.tiles.overview(height, width))

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        side = square_side(self.tokens_per_tile)
        return height * side // self.tiles.size, width * side // self.tiles.size

    def _encode(
        self,
        turns: Sequence[Turn],
        pictures: tuple[int, int],
        name: str,
        region_tokens: Sequence[int],
    ) -> Encoded:
        number, tokens = pictures
        placed = _place([question for question, _ in turns], number, len(region_tokens))
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

    def _pictures(self, tiles: int | Tensor, video: bool) -> tuple[int, int]:
        """How many pictures stand in the text, and the visual tokens of each.

        All tiles of an image are one picture; each frame of a video is a picture of its own.
        """
        if isinstance(tiles, int):
            number, tokens = tiles, self.tokens_per_tile
        else:
            areas = tiles.shape[-2] * tiles.shape[-1] / self.tiles.size**2
            number, tokens = len(tiles), round(areas * self.tokens_per_tile)
        if video or not number:
            return number, tokens if number else 0
        return 1, number * tokens


def _place(questions: Sequence[str], pictures: int, regions: int) -> list[str]:
    """The questions with places for their pictures and regions."""
    if pictures:
        if not any(IMAGE_PLACEHOLDER in question for question in questions):
            questions = [f"{IMAGE_PLACEHOLDER}\n{questions[0]}", *questions[1:]]
        row = "\n".join([IMAGE_PLACEHOLDER] * pictures)
        questions = [question.replace(IMAGE_PLACEHOLDER, row) for question in questions]
    return with_regions(questions, regions)


def _tokens(regions: Tensor | None) -> list[int]:
    """Visual tokens of each region of a bool [R, rows, columns]."""
    return [] if regions is None else regions.flatten(1).sum(1).tolist()
