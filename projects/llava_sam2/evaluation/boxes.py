"""Boxes that are asked for in words: accuracy at an overlap of 0.5, and the mean overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from projects.llava_sam2.datasets.box_text import Box, ParsedBoxes, parse_boxes
from projects.llava_sam2.datasets.boxes import BOX_QUESTIONS, ask, check_questions, expression_boxes
from projects.llava_sam2.datasets.frame_samplers import FrameSampler, UniformFrames
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.labels import Labels
from projects.llava_sam2.datasets.rows import Expression, Row
from projects.llava_sam2.evaluation.breakdown import Record, by_uses
from projects.llava_sam2.evaluation.refer_image import checked_labels
from projects.llava_sam2.models.sa2va import Sa2VA

ACCURATE = 0.5
WHOLE_FRAME: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class BoxAnswer:
    """What was said about an expression.

    Attributes:
        text: the answer.
        indices: frames of the row that it is about.
        boxes: relative to each of them.
    """

    text: str
    indices: list[int]
    boxes: ParsedBoxes


class BoxResponder(Protocol):
    """Answers each expression of a row."""

    def answer(self, model: Any, row: Row) -> list[BoxAnswer]:
        """One answer per expression of ``row``, in order."""

    def describe(self) -> str:
        """Everything that the answers depend on, beside the model's weights."""


class AskForBoxes:
    """The model generates an answer, which is read strictly (see ``parse_boxes``).

    Args:
        inputs, frames: as the model was trained.
        questions: the first is asked.
        max_new_tokens: longest answer; a box is about 26 tokens where digits are single ones.
        use_visual: False feeds zeros in place of visual tokens, to measure what they add.
        seed: for frame samplers that draw.
    """

    def __init__(
        self,
        *,
        inputs: GroundingInputs,
        questions: Sequence[str] = BOX_QUESTIONS,
        frames: FrameSampler | None = None,
        max_new_tokens: int = 512,
        use_visual: bool = True,
        seed: int = 0,
    ) -> None:
        check_questions(questions, inputs.tokenizer)
        self.inputs = inputs
        self.question = questions[0]
        self.frames = frames or UniformFrames(num=6)
        self.max_new_tokens = max_new_tokens
        self.use_visual = use_visual
        self.seed = seed

    def answer(self, model: Sa2VA, row: Row) -> list[BoxAnswer]:
        mllm, video = model.mllm, row.frames is not None
        indices = self.frames(len(row), np.random.default_rng(self.seed))
        pixel_values = self.inputs.pixel_values(row.read(indices), video=video).to(mllm.device)
        visual, grids = mllm.visual_features(pixel_values), mllm.grids(pixel_values)
        prompts = [
            self.inputs.prompt(
                ask(self.question, expression.text), tiles=pixel_values, video=video, name=row.name
            )
            for expression in row.expressions
        ]
        generated = mllm.generate(
            prompts,
            visual=(visual if self.use_visual else visual * 0).repeat(len(prompts), 1, 1),
            grids=None if grids is None else grids * len(prompts),
            max_new_tokens=self.max_new_tokens,
        )
        return [
            BoxAnswer(answer.text, indices, parse_boxes(answer.text, len(indices)))
            for answer in generated
        ]

    def describe(self) -> str:
        return (
            f"{self.inputs.describe()} {self.question!r} {self.frames!r} "
            f"max_new_tokens={self.max_new_tokens} use_visual={self.use_visual} seed={self.seed}"
        )


class TrivialBoxes:
    """A baseline that knows the row's objects, but does not read the expression.

    Args:
        kind: "whole_frame", or "largest" (on each frame, the object with the largest box).
        frames: as the model is asked.
    """

    KINDS = ("whole_frame", "largest")

    def __init__(self, *, kind: str, frames: FrameSampler | None = None) -> None:
        if kind not in self.KINDS:
            raise ValueError(f"kind is one of {', '.join(self.KINDS)}; got {kind!r}")
        self.kind = kind
        self.frames = frames or UniformFrames(num=6)

    def answer(self, model: Any, row: Row) -> list[BoxAnswer]:
        indices = self.frames(len(row), np.random.default_rng(0))
        if self.kind == "whole_frame":
            boxes: list[list[Box] | None] = [[WHOLE_FRAME] for _ in indices]
        else:
            every = range(len(row.objects))
            single = tuple(i for i in every if not row.objects[i].group) or tuple(every)
            known = Expression(self.kind, single, self.kind)
            size = row[0].shape[:2]
            frames = expression_boxes(row, known, indices, size)
            boxes = [sorted(frame, key=area, reverse=True)[:1] for frame in frames]
        answer = BoxAnswer(self.kind, indices, ParsedBoxes(boxes, 0))
        return [answer for _ in row.expressions]

    def describe(self) -> str:
        return f"trivial boxes {self.kind} {self.frames!r}"


class BoxBenchmark:
    """One item is an image or a video with all its expressions.

    A frame scores the IoU of predicted and true box. Where an expression names several things, the
    boxes are matched for the largest sum of IoU, over the larger of both numbers of boxes; nothing
    against nothing scores 1, and what cannot be read 0. An answer scores the mean over the frames
    that were asked about: those that the model sees.

    Metrics (fractions): ``Acc@0.5``, the share of answers that score at least 0.5 (of images, what
    referring comprehension reports); ``mIoU``, their mean; ``parse_failures``, answers in which a
    frame cannot be read, is missing or is one too many. The first two also by what an expression
    uses (``breakdown``).

    Args:
        rows: from an annotation source, with masks or boxes.
        respond: who answers.
        labels: what each expression uses and needs (``load_labels``); None: no breakdown.
    """

    metrics = ("Acc@0.5", "mIoU", "parse_failures")

    def __init__(
        self, *, rows: Sequence[Row], respond: BoxResponder, labels: Labels | None = None
    ) -> None:
        self.rows = rows
        self.respond = respond
        self.labels = checked_labels(rows, labels)

    def __len__(self) -> int:
        return len(self.rows)

    def predict(self, model: Any, index: int) -> list[Record]:
        row = self.rows[index]
        size = row.size or row[0].shape[:2]
        answers = self.respond.answer(model, row)
        return [
            self._record(row, expression, answer, size)
            for expression, answer in zip(row.expressions, answers, strict=True)
        ]

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        failures = float(np.mean([not record["whole"] for record in records]))
        return _metrics(records) | {"parse_failures": failures} | by_uses(records, _metrics)

    def fingerprint(self) -> str:
        text = f"{list(self.rows)!r} {self.respond.describe()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _record(
        self, row: Row, expression: Expression, answer: BoxAnswer, size: tuple[int, int]
    ) -> Record:
        truth = expression_boxes(row, expression, answer.indices, size)
        scores = [
            frame_score(predicted, true)
            for predicted, true in zip(answer.boxes.frames, truth, strict=True)
        ]
        return {
            "image" if row.frames is None else "frame_folder": str(row.source),
            "frames": [row.frames[index] for index in answer.indices] if row.frames else [],
            "expression": expression.text,
            "key": expression.key,
            **self.labels.get(expression.key, {}),
            "answer": answer.text,
            "predicted": answer.boxes.frames,
            "truth": truth,
            "whole": answer.boxes.whole,
            "iou": float(np.mean(scores)),
        }


def box_iou(one: Box, other: Box) -> float:
    """Common area of two boxes over the area that both cover."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / (area(one) + area(other) - common)


def frame_score(predicted: Sequence[Box] | None, truth: Sequence[Box]) -> float:
    """The IoU of a frame's boxes (see :class:`BoxBenchmark`); None is what cannot be read."""
    if predicted is None:
        return 0.0
    if not predicted and not truth:
        return 1.0
    if not predicted or not truth:
        return 0.0
    overlaps = np.array([[box_iou(box, true) for true in truth] for box in predicted])
    matched = overlaps[linear_sum_assignment(overlaps, maximize=True)]
    return float(matched.sum()) / max(len(predicted), len(truth))


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _metrics(records: Sequence[Record]) -> dict[str, float]:
    scores = np.array([record["iou"] for record in records])
    return {"Acc@0.5": float((scores >= ACCURATE).mean()), "mIoU": float(scores.mean())}
