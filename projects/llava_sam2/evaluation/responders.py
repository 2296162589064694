"""Who answers the questions of a benchmark: the model, or a trivial baseline beside it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from projects.common.masks import Rle, encode_rle
from projects.llava_sam2.datasets.frame_samplers import FrameSampler
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.rows import Expression, Row
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.predictor import Answer, GroundedPredictor


class Responder(Protocol):
    """Answers each expression of a row; masks are RLE at the frames' own resolution."""

    def answer(self, model: Any, row: Row) -> list[Answer]:
        """One answer per expression of ``row``, in order."""

    def describe(self) -> str:
        """Everything that its answers depend on, beside the model's weights."""


class AskModel:
    """The model answers, asked with the first question of ``templates`` so that it is repeatable.

    Args:
        inputs, frames: as the model was trained.
        templates: the first question is asked.
        answer: "generate": the model writes its answer and the mask comes from the [SEG] that it
            wrote; without one the mask is empty. "template": the first answer of ``templates`` is
            forced on it, which measures the mask path alone.
        propagation_decoder: see ``GroundedPredictor``.
        max_new_tokens: longest answer.
        use_visual: False hides the picture from the language model (an ablation: SAM 2 still
            sees it).
    """

    def __init__(
        self,
        *,
        inputs: GroundingInputs,
        templates: Templates,
        frames: FrameSampler | None = None,
        answer: str = "generate",
        propagation_decoder: str | None = None,
        max_new_tokens: int = 32,
        use_visual: bool = True,
    ) -> None:
        if answer not in ("generate", "template"):
            raise ValueError(f"answer is 'generate' or 'template', got {answer!r}")
        self.templates = templates
        self.forced = answer == "template"
        self.settings = dict(
            inputs=inputs,
            frames=frames,
            propagation_decoder=propagation_decoder,
            max_new_tokens=max_new_tokens,
            use_visual=use_visual,
        )

    def predictor(self, model: Sa2VA) -> GroundedPredictor:
        return GroundedPredictor(model=model, **self.settings)

    def answer(self, model: Sa2VA, row: Row) -> list[Answer]:
        predictor = self.predictor(model)
        turns = [self.templates.first(expression.text) for expression in row.expressions]
        questions = [question for question, _ in turns]
        forced = [answer for _, answer in turns] if self.forced else None
        if row.frames is None:
            return predictor.image(row[0], questions, forced=forced, name=row.name)
        return predictor.video(row, questions, forced=forced, name=row.name)

    def describe(self) -> str:
        inputs: GroundingInputs = self.settings["inputs"]
        others = {key: value for key, value in self.settings.items() if key != "inputs"}
        return f"{inputs.describe()} {others} {self.forced} {self.templates.first('{expression}')}"


class Trivial:
    """A baseline that knows all annotated objects of the row, but does not read the expression.

    Args:
        kind: "everything" (all objects at once), "largest" (most pixels over all frames) or
            "random" (one object, the same each time). The last two do not pick groups.
    """

    KINDS = ("everything", "largest", "random")

    def __init__(self, *, kind: str) -> None:
        if kind not in self.KINDS:
            raise ValueError(f"kind is one of {', '.join(self.KINDS)}; got {kind!r}")
        self.kind = kind

    def answer(self, model: Any, row: Row) -> list[Answer]:
        size = row[0].shape[:2]
        return [
            Answer(text=self.kind, masks=[masks_of(row, self._pick(row, expression, size), size)])
            for expression in row.expressions
        ]

    def describe(self) -> str:
        return f"trivial {self.kind}"

    def _pick(self, row: Row, expression: Expression, size: tuple[int, int]) -> Sequence[int]:
        every = range(len(row.objects))
        if self.kind == "everything":
            return every
        single = [index for index in every if not row.objects[index].group] or every
        if self.kind == "largest":
            return [max(single, key=lambda index: _area(row, index, size))]
        generator = np.random.default_rng(zlib.crc32(expression.key.encode()))
        return [single[int(generator.integers(len(single)))]]


def masks_of(row: Row, objects: Sequence[int], size: tuple[int, int]) -> list[Rle]:
    """The objects' union on every frame of the row."""
    return [encode_rle(row.read_mask(objects, frame, size)) for frame in range(len(row))]


def _area(row: Row, index: int, size: tuple[int, int]) -> int:
    return sum(int(row.read_mask([index], frame, size).sum()) for frame in range(len(row)))
