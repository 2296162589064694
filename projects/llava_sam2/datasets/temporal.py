"""Rows to samples: when does it happen? The answer is two positions among the frames that are seen.

features [frames, C] ──► up to 100 of them ──► one visual token each
question ──► "<TEMPORAL> {query} <image> ..."; the query also stands before the frames
answer   ──► "<frame_0><frame_7>-<frame_6><frame_3>": from the 8th to the 64th of them
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from projects.common.conversation import (
    FRAME_DIGITS,
    IMAGE_PLACEHOLDER,
    TEMPORAL,
    Encoded,
    encode_conversation,
    prompt_ids,
    token_id,
)
from projects.common.packed import packed
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.frame_samplers import FrameSampler, UniformFrames
from projects.llava_sam2.datasets.temporal_row import TemporalRow, read_features, row_seconds
from projects.llava_sam2.structures import GroundingSample

POSITIONS = 100  # what two digits can say

QUESTIONS = (
    f"{TEMPORAL} Find when this happens: {{query}}\n{IMAGE_PLACEHOLDER}\nWhen does it happen?",
    f"{TEMPORAL} Here is a video. Look for the moment: {{query}}\n{IMAGE_PLACEHOLDER}\n"
    "From which frame to which frame can it be seen?",
    f"{TEMPORAL} {{query}}\n{IMAGE_PLACEHOLDER}\nWhich part of this video shows that?",
)
_SPAN = re.compile(r"\s*(?:-|\u2013|to)\s*".join([r"<frame_(\d)>\s*<frame_(\d)>"] * 2))


class TemporalInputs:
    """Features and conversations of one recipe: training and evaluation go through the same.

    Args:
        tokenizer: with the frame digits (``conversation.load_shared_tokenizer``).
        template: name of the chat template.
        questions: phrasings with ``{query}`` and one ``<image>`` where the frames stand. Evaluation
            asks the first. With ``{query}`` before the frames, each frame is read knowing what is
            looked for.
        frames: which frames are seen, at most 100.
        fps: frames a second that the features were made at.
        tolerance: seconds by which features and annotated duration may disagree.
        max_length: longest conversation in tokens.
        system: system text; None means the template's own.

    Raises:
        ValueError: a phrasing without ``{query}`` or with other than one ``<image>``, more
            positions than two digits can say, a rate that is not positive, a tokenizer that cannot
            spell the answers.
    """

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        questions: Sequence[str] = QUESTIONS,
        frames: FrameSampler | None = None,
        fps: float = 10.0,
        tolerance: float = 2.0,
        max_length: int = 8192,
        system: str | None = None,
    ) -> None:
        for question in questions:
            if "{query}" not in question or question.count(IMAGE_PLACEHOLDER) != 1:
                raise ValueError(
                    f"question {question!r} needs {{query}} and one {IMAGE_PLACEHOLDER}"
                )
        if not questions or fps <= 0:
            raise ValueError(f"give at least one question and a positive fps, got fps={fps}")
        for token in (TEMPORAL, *FRAME_DIGITS):
            token_id(tokenizer, token)
        spelt = tokenizer(span_text(0, 0), add_special_tokens=False)["input_ids"]
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in spelt:
            raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} cannot spell '-'")
        self.tokenizer = tokenizer
        self.template = template
        self.questions = tuple(questions)
        self.frames = frames or UniformFrames(num=POSITIONS)
        self.fps = fps
        self.tolerance = tolerance
        self.max_length = max_length
        self.system = system

    def describe(self) -> str:
        """Every setting, in words: two recipes that ask differently read differently."""
        return (
            f"{self.template} system={self.system!r} {self.questions[0]!r} {self.frames!r} "
            f"fps={self.fps} max_length={self.max_length} vocabulary={len(self.tokenizer)}"
        )

    def features(self, row: TemporalRow) -> Tensor:
        """All features of a row's video, float32 [frames, C]."""
        return read_features(row, fps=self.fps, tolerance=self.tolerance)

    def sample(
        self, count: int, generator: np.random.Generator, keep: Sequence[int] = ()
    ) -> list[int]:
        """Sorted indices of the frames that are seen, of ``count``; ``keep`` are among them."""
        indices = self.frames(count, generator)
        if len(indices) > POSITIONS:
            raise ValueError(f"{len(indices)} frames, but two digits say {POSITIONS} positions")
        return with_frames(indices, keep)

    def frame_at(self, seconds: float, count: int) -> int:
        """Index of the frame nearest to a time; the last one for times behind it."""
        return min(round(seconds * self.fps), count - 1)

    def conversation(self, row: TemporalRow, answer: str, *, question: int, frames: int) -> Encoded:
        """Ids and labels; ``question`` numbers the phrasing, ``frames`` are as many as are seen."""
        return encode_conversation(
            self.tokenizer,
            [(self._ask(row, question), answer)],
            self.template,
            image_tokens=frames,
            image_ends=False,
            system=self.system,
            max_length=self.max_length,
            name=row.key,
        )

    def prompt(self, row: TemporalRow, *, frames: int) -> Tensor:
        """Ids [L] up to where the model answers, with the first phrasing."""
        return prompt_ids(
            self.tokenizer,
            self._ask(row, 0),
            self.template,
            image_tokens=frames,
            image_ends=False,
            system=self.system,
            name=row.key,
        )

    def _ask(self, row: TemporalRow, question: int) -> str:
        if IMAGE_PLACEHOLDER in row.query:
            raise ValueError(f"{row.key}: the query contains {IMAGE_PLACEHOLDER}")
        return self.questions[question].replace("{query}", row.query)


class TemporalDataset:
    """Samples of temporal grounding; the frames where the event starts and ends are always seen.

    Args:
        rows: from an annotation source.
        inputs: features and conversations of the recipe.
        task: the head that trains on the samples.
    """

    def __init__(
        self, *, rows: Sequence[TemporalRow], inputs: TemporalInputs, task: str = "temporal"
    ) -> None:
        self.rows = packed(rows)
        self.inputs = inputs
        self.task = task

    def __len__(self) -> int:
        return len(self.rows)

    def length_of(self, index: int) -> int:
        """Tokens of a sample of this row; its features are not read."""
        row, inputs = self.rows[index], self.inputs
        frames = min(round(row_seconds(row, inputs.fps) * inputs.fps), inputs.frames.num)
        encoded = inputs.conversation(row, span_text(0, 0), question=0, frames=frames)
        return len(encoded.input_ids)

    def __getitem__(self, draw: Draw | int) -> GroundingSample:
        draw = Draw(0, draw, 0) if isinstance(draw, int) else draw
        row, generator = self.rows[draw.index], np.random.default_rng(draw.seed)
        features = self.inputs.features(row)
        span = [self.inputs.frame_at(time, len(features)) for time in (row.start, row.end)]
        indices = self.inputs.sample(len(features), generator, keep=span)
        first, last = (indices.index(frame) for frame in span)
        question = int(generator.integers(len(self.inputs.questions)))
        encoded = self.inputs.conversation(
            row, span_text(first, last), question=question, frames=len(indices)
        )
        return GroundingSample(
            task=self.task,
            name=row.key,
            input_ids=encoded.input_ids,
            labels=encoded.labels,
            features=features[indices],
        )


def with_frames(indices: Sequence[int], keep: Sequence[int]) -> list[int]:
    """``indices``, where the nearest to each of ``keep`` gives way to it; as many, sorted."""
    kept = set(keep)
    chosen = set(indices)
    for frame in sorted(kept - chosen):
        free = chosen - kept
        if not free:
            raise ValueError(f"{len(indices)} frames cannot hold {sorted(kept)}")
        chosen = chosen - {min(free, key=lambda index: (abs(index - frame), index))} | {frame}
    return sorted(chosen)


def span_text(first: int, last: int) -> str:
    """Positions 7 and 63 as ``<frame_0><frame_7>-<frame_6><frame_3>``."""
    for position in (first, last):
        if not 0 <= position < POSITIONS:
            raise ValueError(f"position {position} is not within 0..{POSITIONS - 1}")
    return "-".join(
        FRAME_DIGITS[position // 10] + FRAME_DIGITS[position % 10] for position in (first, last)
    )


def parse_span(text: str, frames: int) -> tuple[int, int] | None:
    """First and last position in an answer; None where it gives none, or not one clearly.

    Words around a span and spaces between its tokens do not count, nor does saying it twice. A
    second span, digits that belong to none, an end before the start, and positions behind the
    ``frames`` that were seen do: guessing would turn a failure into a score.
    """
    spans = {tuple(map(int, (a + b, c + d))) for a, b, c, d in _SPAN.findall(text)}
    if len(spans) != 1 or "<frame_" in _SPAN.sub("", text):
        return None
    ((first, last),) = spans
    return (first, last) if first <= last < frames else None
