"""Rows to samples: where is it? The answer is boxes as text, one ``<box>`` a frame that is seen.

frames ──► tiles
question ──► "<SPATIAL> Where is {expression}? ..."
answer   ──► "<box>0.102,0.250,0.480,0.755</box><next><box><no_box></box>", see ``box_text``
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from projects.common.conversation import SHARED_TOKENS, SPATIAL, token_id
from projects.common.packed import packed
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.box_rows import object_boxes
from projects.llava_sam2.datasets.box_text import Box, box_text
from projects.llava_sam2.datasets.frame_samplers import FrameSampler, UniformFrames
from projects.llava_sam2.datasets.grounding import picture_size
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import HorizontalFlip
from projects.llava_sam2.datasets.rows import Expression, Row
from projects.llava_sam2.structures import GroundingSample

BOX_QUESTIONS = (
    f"{SPATIAL} Where is {{expression}}? Answer with boxes.",
    f"{SPATIAL} Give me the bounding box of {{expression}}.",
    f"{SPATIAL} Locate {{expression}} with a box.",
    f"{SPATIAL} Box in {{expression}} wherever it can be seen.",
    f"{SPATIAL} I am looking for {{expression}}. Tell me the coordinates of its box.",
    f"{SPATIAL} Find {{expression}} and put a box around it.",
)
_ANY_BOX: Box = (0.123, 0.123, 0.456, 0.456)
_SPELT = "<box>0.123,0.456,0.789,0.999</box>"


class BoxDataset:
    """Samples of localisation by text in images and videos.

    Each sample holds one row with up to ``expressions`` of its expressions, a question and an
    answer for each, behind the same pictures. An expression for several things has several boxes a
    frame, one for none has ``<no_box>``.

    Args:
        rows: from an annotation source; boxes (``box_rows``) or masks, whose boxes are taken.
        inputs: pixels and conversations of the recipe.
        questions: phrasings with ``{expression}``.
        expressions: how many to draw, without repetition.
        frames: which frames of a video.
        flip: mirrors some samples, boxes and words included; None: never.
        task: the head that trains on the samples.

    Raises:
        ValueError: a phrasing without ``{expression}``, or a tokenizer that cannot spell boxes.
    """

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        inputs: GroundingInputs,
        questions: Sequence[str] = BOX_QUESTIONS,
        expressions: int = 1,
        frames: FrameSampler | None = None,
        flip: HorizontalFlip | None = None,
        task: str = "box",
    ) -> None:
        if expressions < 1:
            raise ValueError(f"a sample holds at least 1 expression, got {expressions}")
        check_questions(questions, inputs.tokenizer)
        self.rows = packed(rows)
        self.inputs = inputs
        self.questions = tuple(questions)
        self.expressions = expressions
        self.frames = frames or UniformFrames(num=6)
        self.flip = flip
        self.task = task

    def __len__(self) -> int:
        return len(self.rows)

    def length_of(self, index: int) -> int:
        """Tokens of a sample of this row, as if each of its things were on every frame; a draw has
        other words, and ``<no_box>`` where something is absent."""
        row, video = self.rows[index], self.rows[index].frames is not None
        frames = min(len(row), self.frames.num) if video else 1
        turns = [
            (
                ask(self.questions[0], expression.text),
                box_text([[_ANY_BOX] * len(expression.objects or ())] * frames, video=video),
            )
            for expression in row.expressions[: self.expressions]
        ]
        if video:
            return self.inputs.length(turns, frames=frames, size=row.size, name=row.name)
        return self.inputs.length(turns, size=picture_size(row), name=row.name)

    def __getitem__(self, draw: Draw | int) -> GroundingSample:
        draw = Draw(0, draw, 0) if isinstance(draw, int) else draw
        row, generator = self.rows[draw.index], np.random.default_rng(draw.seed)
        indices = self.frames(len(row), generator)
        number = min(self.expressions, len(row.expressions))
        picks = generator.choice(len(row.expressions), size=number, replace=False)
        chosen = [row.expressions[int(pick)] for pick in picks]
        frames = row.read(indices)
        boxes = [expression_boxes(row, e, indices, frames.shape[1:3]) for e in chosen]
        texts = [expression.text for expression in chosen]
        if self.flip is not None and self.flip.draw(generator):
            frames = np.flip(frames, axis=2)
            boxes = [[[mirrored(box) for box in frame] for frame in video] for video in boxes]
            texts = [self.flip.text(text) for text in texts]
        video = row.frames is not None
        questions = generator.integers(len(self.questions), size=number)
        turns = [
            (ask(self.questions[int(question)], text), box_text(answer, video=video))
            for question, text, answer in zip(questions, texts, boxes, strict=True)
        ]
        pixel_values = self.inputs.pixel_values(frames, video=video)
        encoded = self.inputs.conversation(turns, tiles=pixel_values, video=video, name=row.name)
        return GroundingSample(
            task=self.task,
            name=row.name,
            input_ids=encoded.input_ids,
            labels=encoded.labels,
            pixel_values=pixel_values,
        )


def check_questions(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise for phrasings without ``{expression}``, and tokenizers that cannot spell boxes.

    Raises:
        ValueError: naming the phrasing or the token.
    """
    lacking = [question for question in questions if "{expression}" not in question]
    if lacking or not questions:
        raise ValueError(f"questions need {{expression}}; found {lacking or 'none'}")
    for token in SHARED_TOKENS:
        token_id(tokenizer, token)
    spelt = tokenizer(_SPELT, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in spelt:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} cannot spell {_SPELT!r}: digits, '.' or ','"
        )


def ask(question: str, expression: str) -> str:
    """A phrasing about an expression, which may hold braces of its own."""
    return question.replace("{expression}", expression)


def expression_boxes(
    row: Row, expression: Expression, frames: Sequence[int], size: tuple[int, int]
) -> list[list[Box]]:
    """Boxes of what an expression names on each of some frames of ``size`` (height, width)."""
    return [object_boxes(row, expression.objects, frame, size) for frame in frames]


def mirrored(box: Box) -> Box:
    """A relative box in the frame that is flipped left to right."""
    x1, y1, x2, y2 = box
    return 1 - x2, y1, 1 - x1, y2
