"""Captions whose phrases have masks: grounded conversation generation (GLaMM, CVPR 2024).

caption   "A man rides a horse."   phrases at [0, 5) and [12, 19)
answer    "<p> A man </p> [SEG] rides <p> a horse </p> [SEG]."    masks in the same order
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from projects.common.conversation import PHRASE_END, PHRASE_START, SEG
from projects.common.packed import packed
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.grounding import grounding_sample, picture_size
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.rows import Row
from projects.llava_sam2.datasets.templates import GROUNDED_CAPTION_QUESTIONS
from projects.llava_sam2.structures import GroundingSample

Span = tuple[int, int]  # first character, and the one behind the last


@dataclass(frozen=True)
class CaptionRow:
    """An image and a caption of it.

    Attributes:
        row: the image; its expressions are the grounded phrases, in the order of the caption.
        caption: plain text.
        spans: where in the caption each phrase stands; they do not overlap.
    """

    row: Row
    caption: str
    spans: tuple[Span, ...]

    def answer(self) -> str:
        """The caption with its phrases marked, a [SEG] behind each."""
        parts, done = [], 0
        for start, end in self.spans:
            phrase = self.caption[start:end]
            parts += [self.caption[done:start], f"{PHRASE_START} {phrase} {PHRASE_END} {SEG}"]
            done = end
        return "".join([*parts, self.caption[done:]])


class GroundedCaptionDataset:
    """One question for a caption, one answer with a [SEG] for each grounded phrase.

    Args:
        rows: from :mod:`projects.llava_sam2.datasets.gcg`.
        inputs: pixels and conversations of the recipe.
        mask_size: side of the square at which the mask loss is computed.
        questions: to draw from.
        task: the head that trains on the samples.
    """

    def __init__(
        self,
        *,
        rows: Sequence[CaptionRow],
        inputs: GroundingInputs,
        mask_size: int,
        questions: Sequence[str] = GROUNDED_CAPTION_QUESTIONS,
        task: str = "segment",
    ) -> None:
        if not questions:
            raise ValueError("grounded captions need at least one question")
        self.rows = packed(rows)
        self.inputs = inputs
        self.mask_size = mask_size
        self.questions = questions
        self.task = task

    def __len__(self) -> int:
        return len(self.rows)

    def length_of(self, index: int) -> int:
        """Tokens of a sample of this row, visual ones included."""
        caption = self.rows[index]
        turns = [(self.questions[0], caption.answer())]
        return self.inputs.length(turns, size=picture_size(caption.row), name=caption.row.name)

    def __getitem__(self, draw: Draw | int) -> GroundingSample:
        draw = Draw(0, draw, 0) if isinstance(draw, int) else draw
        caption = self.rows[draw.index]
        generator = np.random.default_rng(draw.seed)
        question = self.questions[int(generator.integers(len(self.questions)))]
        row = caption.row
        frames = row.read([0])
        named = [phrase.objects for phrase in row.expressions]
        return grounding_sample(
            row,
            frames,
            row.sample_masks(named, [0], frames.shape[1:3], self.mask_size),
            [(question, caption.answer())],
            inputs=self.inputs,
            task=self.task,
        )
