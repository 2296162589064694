"""Rows to samples: an image or a video with some of its expressions as one conversation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from projects.common.packed import packed
from projects.common.samplers import Draw
from projects.common.video import image_size
from projects.llava_sam2.datasets.frame_samplers import FrameSampler, UniformFrames
from projects.llava_sam2.datasets.inputs import GroundingInputs, Turn
from projects.llava_sam2.datasets.pixels import HorizontalFlip
from projects.llava_sam2.datasets.rows import MASKS_UNKNOWN, Expression, Row
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.structures import GroundingSample


class GroundingDataset:
    """Samples for referring segmentation in images and videos.

    Each sample holds one row with up to ``expressions`` of its expressions: one question and one
    answer with its own [SEG] for each, in one conversation, behind the same pictures. An expression
    that names nothing in the row is answered without [SEG], and has no mask in the sample.

    Args:
        rows: from an annotation source.
        inputs: pixels and conversations of the recipe.
        templates: phrasings to draw from.
        mask_size: side of the square at which the mask loss is computed.
        expressions: how many to draw.
        with_repetition: draw with repetition, so that each sample has exactly ``expressions``
            (Sa2VA's way); otherwise a row that has fewer gives all it has.
        frames: which frames of a video.
        flip: mirrors some samples, words included; None: never.
        task: the head that trains on the samples.
    """

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        inputs: GroundingInputs,
        templates: Templates,
        mask_size: int,
        expressions: int = 5,
        with_repetition: bool = False,
        frames: FrameSampler | None = None,
        flip: HorizontalFlip | None = None,
        task: str = "segment",
    ) -> None:
        if expressions < 1:
            raise ValueError(f"a sample holds at least 1 expression, got {expressions}")
        for row in rows:
            if any(expression.objects is None for expression in row.expressions):
                raise ValueError(f"{row.name}: {MASKS_UNKNOWN}")
        self.rows = packed(rows)
        self.inputs = inputs
        self.templates = templates
        self.mask_size = mask_size
        self.expressions = expressions
        self.with_repetition = with_repetition
        self.frames = frames or UniformFrames(num=5)
        self.flip = flip
        self.task = task

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw | int) -> GroundingSample:
        draw = Draw(0, draw, 0) if isinstance(draw, int) else draw
        row = self.rows[draw.index]
        generator = np.random.default_rng(draw.seed)
        indices = self.frames(len(row), generator)
        chosen = self._choose(row.expressions, generator)
        frames = row.read(indices)
        named = [expression.objects for expression in chosen if expression.objects]
        texts = [expression.text for expression in chosen]
        size = frames.shape[1:3]
        mirror = self.flip is not None and self.flip.draw(generator)
        if mirror:
            frames = np.flip(frames, axis=2)
            texts = [self.flip.text(text) for text in texts]
        masks = row.sample_masks(named, indices, size, self.mask_size, mirror=mirror)
        turns = [
            self.templates.draw(text, generator, present=bool(expression.objects))
            for text, expression in zip(texts, chosen, strict=True)
        ]
        return grounding_sample(row, frames, masks, turns, inputs=self.inputs, task=self.task)

    def length_of(self, index: int) -> int:
        """Tokens of a sample of this row, visual ones included; it depends little on the draw."""
        row, generator = self.rows[index], np.random.default_rng(0)
        turns = [
            self.templates.draw(e.text, generator, present=bool(e.objects))
            for e in self._choose(row.expressions, generator)
        ]
        if row.frames is None:
            return self.inputs.length(turns, size=picture_size(row), name=row.name)
        # other rows would open their video to count its frames
        frames = min(len(row), self.frames.num) if isinstance(row, Row) else self.frames.num
        return self.inputs.length(turns, frames=frames, size=row.size, name=row.name)

    def _choose(
        self, expressions: Sequence[Expression], generator: np.random.Generator
    ) -> list[Expression]:
        number = self.expressions
        if not self.with_repetition:
            number = min(number, len(expressions))
        picks = generator.choice(len(expressions), size=number, replace=self.with_repetition)
        return [expressions[int(pick)] for pick in picks]


def picture_size(row: Row) -> tuple[int, int]:
    """(height, width) of an image, from its annotation or from the head of its file."""
    return row.size or image_size(row.source)


def grounding_sample(
    row: Row,
    frames: np.ndarray,
    masks: np.ndarray,
    turns: Sequence[Turn],
    *,
    inputs: GroundingInputs,
    task: str,
) -> GroundingSample:
    """A conversation about frames uint8 [T, H, W, 3] with masks bool [E, T, h, w], one a [SEG]."""
    video = row.frames is not None
    pixel_values = inputs.pixel_values(frames, video=video)
    encoded = inputs.conversation(turns, tiles=pixel_values, video=video, name=row.name)
    return GroundingSample(
        task=task,
        name=row.name,
        input_ids=encoded.input_ids,
        labels=encoded.labels,
        pixel_values=pixel_values,
        grounding_frames=inputs.grounding_frames(frames),
        masks=torch.from_numpy(masks),
    )
