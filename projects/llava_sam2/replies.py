"""What the language model replies to questions about the same pictures.

pictures ──► vision tower, once ──► visual tokens ─┐
questions, regions ──► prompts ──── a batch ───────┴─► words, and the states at their [SEG]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.seg_tokens import gather_seg
from projects.llava_sam2.models.visual_tokens import Grid

PAD = -1  # no token's id


@dataclass
class Reply:
    """To one question."""

    text: str
    seg_hidden: Tensor  # [K, D]


@dataclass
class Question:
    """One question, with an answer where the model is told what to say."""

    text: str
    regions: Tensor | None  # [R, rows, columns] bool
    forced: str | None
    number: int  # among all that are asked


@dataclass
class _Seen:
    """Pictures that have passed the vision tower."""

    pixel_values: Tensor  # [N, 3, h, w]
    visual: Tensor  # [N, V, W]
    grids: list[Grid] | None  # of the N; None: squares
    video: bool
    name: str


class Replies:
    """Asks a language model.

    Args:
        mllm: in eval mode.
        inputs: how it was trained to see and to be asked.
        max_new_tokens: longest reply.
        use_visual: False feeds zeros in place of visual features.
        batch_size: questions answered at once.
        temperature, top_p: see :func:`projects.llava_sam2.models.generation.generate`; a question's
            draws come from ``seed`` and its place alone, whatever else is asked.
        seed: of sampled replies.
    """

    def __init__(
        self,
        *,
        mllm: LanguageAdapter,
        inputs: GroundingInputs,
        max_new_tokens: int,
        use_visual: bool = True,
        batch_size: int = 16,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.mllm = mllm
        self.inputs = inputs
        self.max_new_tokens = max_new_tokens
        self.use_visual = use_visual
        self.batch_size = batch_size
        self.temperature = temperature
        self.top_p = top_p
        self.seed = seed

    def to(
        self,
        questions: Sequence[str],
        frames: np.ndarray,
        *,
        video: bool,
        name: str,
        regions: Sequence[np.ndarray | None] | None = None,
        forced: Sequence[str] | None = None,
    ) -> list[Reply]:
        """A reply to each question about frames uint8 [T, H, W, 3].

        Args:
            regions: bool [R, H, W] of each question, of an image.
            forced: replies to put in its mouth; None lets it speak.
        """
        mllm, inputs = self.mllm, self.inputs
        pixel_values = inputs.pixel_values(frames, video=video).to(mllm.device)
        size = frames.shape[1:3]
        cells = [
            None if masks is None else inputs.regions(masks, pixel_values, size=size, name=name)
            for masks in regions or [None] * len(questions)
        ]
        said = forced or [None] * len(questions)
        asked = [
            Question(text, where, answer, number)
            for number, (text, where, answer) in enumerate(zip(questions, cells, said, strict=True))
        ]
        replies: list[Reply] = []
        with self._visual_as_asked():
            visual, grids = mllm.visual_features(pixel_values), mllm.grids(pixel_values)
            seen = _Seen(pixel_values, visual, grids, video, name)
            for start in range(0, len(asked), self.batch_size):
                part = asked[start : start + self.batch_size]
                replies += self._generate(part, seen) if forced is None else self._force(part, seen)
        return replies

    def _generate(self, questions: Sequence[Question], seen: _Seen) -> list[Reply]:
        prompts = [self.inputs.prompt(q.text, regions=q.regions, **_about(seen)) for q in questions]
        generators = [
            torch.Generator(self.mllm.device).manual_seed(self.seed + q.number) for q in questions
        ]
        generated = self.mllm.generate(
            prompts,
            **_seen_by(questions, seen),
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            generator=generators,
        )
        return [Reply(answer.text, answer.seg_hidden) for answer in generated]

    def _force(self, questions: Sequence[Question], seen: _Seen) -> list[Reply]:
        ids = [
            self.inputs.conversation(
                [(q.text, q.forced)], regions=q.regions, **_about(seen)
            ).input_ids
            for q in questions
        ]
        input_ids = pad_sequence(ids, batch_first=True, padding_value=PAD).to(self.mllm.device)
        known = input_ids != PAD
        hidden = self.mllm(input_ids.where(known, 0), known, **_seen_by(questions, seen))
        seg_hidden, counts = gather_seg(hidden, input_ids, self.mllm.seg_id)
        parts = seg_hidden.split(counts)
        return [Reply(q.forced, part) for q, part in zip(questions, parts, strict=True)]

    @contextlib.contextmanager
    def _visual_as_asked(self) -> Iterator[None]:
        before, self.mllm.use_visual = self.mllm.use_visual, self.use_visual
        try:
            yield
        finally:
            self.mllm.use_visual = before


def _about(seen: _Seen) -> dict[str, Any]:
    """What a conversation about the pictures is encoded with."""
    return {"tiles": seen.pixel_values, "video": seen.video, "name": seen.name}


def _seen_by(questions: Sequence[Question], seen: _Seen) -> dict[str, Any]:
    """The same pictures for each question of a batch, with its own regions."""
    times = len(questions)
    return {
        "visual": seen.visual.repeat(times, 1, 1),
        "grids": None if seen.grids is None else seen.grids * times,
        "regions": [question.regions for question in questions],
    }
