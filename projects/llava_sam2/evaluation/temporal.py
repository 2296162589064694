"""Temporal grounding: when does it happen? R1 at several overlaps, and the mean overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from projects.llava_sam2.datasets.labels import Labels
from projects.llava_sam2.datasets.temporal import TemporalInputs, parse_span
from projects.llava_sam2.datasets.temporal_row import TemporalRow, row_seconds
from projects.llava_sam2.evaluation.breakdown import Record, by_uses
from projects.llava_sam2.models.sa2va import Sa2VA

HEAD = "temporal"
OVERLAPS = (0.3, 0.5, 0.7)
RECALLS = tuple(f"R1@{overlap}" for overlap in OVERLAPS)
BY_ANNOTATORS = ("R@1_annotators", "mIoU_annotators")
Interval = tuple[float, float]  # start and end in seconds


class TimeResponder(Protocol):
    """Answers queries about one video."""

    def answer(self, model: Any, rows: Sequence[TemporalRow]) -> list[tuple[str, Interval | None]]:
        """What was said to each row, and the interval in it; None where it is none."""

    def duration(self, row: TemporalRow) -> float:
        """Seconds."""

    def describe(self) -> str:
        """Everything that the answers depend on, beside the model's weights."""


class AskForTimes:
    """The model generates an answer, which is parsed strictly.

    Args:
        inputs: as the model was trained.
        max_new_tokens: longest answer; a span is 5 tokens and a stop word.
        use_visual: False feeds zeros in place of the frames, to measure what they add.
        seed: for frame samplers that draw.
    """

    def __init__(
        self,
        *,
        inputs: TemporalInputs,
        max_new_tokens: int = 12,
        use_visual: bool = True,
        seed: int = 0,
    ) -> None:
        self.inputs = inputs
        self.max_new_tokens = max_new_tokens
        self.use_visual = use_visual
        self.seed = seed

    def answer(
        self, model: Sa2VA, rows: Sequence[TemporalRow]
    ) -> list[tuple[str, Interval | None]]:
        features = self.inputs.features(rows[0])
        indices = self.inputs.sample(len(features), np.random.default_rng(self.seed))
        seen = features[indices].to(model.mllm.device)
        visual = model.heads[HEAD].visual(seen, [len(indices)])
        if not self.use_visual:
            visual = visual * 0
        generated = model.mllm.generate(
            [self.inputs.prompt(row, frames=len(indices)) for row in rows],
            visual=visual.repeat(len(rows), 1, 1),
            max_new_tokens=self.max_new_tokens,
        )
        return [(answer.text, self._interval(answer.text, indices)) for answer in generated]

    def duration(self, row: TemporalRow) -> float:
        return row_seconds(row, self.inputs.fps)

    def describe(self) -> str:
        return (
            f"{self.inputs.describe()} max_new_tokens={self.max_new_tokens} "
            f"use_visual={self.use_visual} seed={self.seed}"
        )

    def _interval(self, text: str, indices: Sequence[int]) -> Interval | None:
        span = parse_span(text, len(indices))
        if span is None:
            return None
        first, last = (indices[position] / self.inputs.fps for position in span)
        return first, last


class TrivialTimes:
    """A baseline that neither reads the query nor looks.

    Args:
        kind: "whole_video" or "middle_half".
        fps: frames a second of the features, for rows whose annotation has no duration.
    """

    KINDS = {"whole_video": (0.0, 1.0), "middle_half": (0.25, 0.75)}

    def __init__(self, *, kind: str, fps: float | None = None) -> None:
        if kind not in self.KINDS:
            raise ValueError(f"kind is one of {', '.join(self.KINDS)}; got {kind!r}")
        self.kind = kind
        self.fps = fps

    def answer(self, model: Any, rows: Sequence[TemporalRow]) -> list[tuple[str, Interval | None]]:
        start, end = self.KINDS[self.kind]
        return [(self.kind, (start * self.duration(row), end * self.duration(row))) for row in rows]

    def duration(self, row: TemporalRow) -> float:
        if row.duration is None and self.fps is None:
            raise ValueError(
                f"{row.key}: its annotation has no duration, which a baseline needs; say at which "
                "fps the features were made"
            )
        return row_seconds(row, self.fps or 1.0)

    def describe(self) -> str:
        return f"trivial {self.kind} fps={self.fps}"


class TemporalBenchmark:
    """One item is a video with all queries about it.

    Metrics (fractions of the queries): ``R1@0.3``, ``R1@0.5``, ``R1@0.7``, the share of answers
    that overlap the truth (IoU in seconds) by at least so much; ``mIoU``, the mean overlap;
    ``parse_failures``, answers that are no interval, which count as overlap 0. R1@0.5 and mIoU also
    by what a query uses and needs (``breakdown``).

    Where rows know what each annotator chose (DiDeMo), also ``R@1_annotators`` and
    ``mIoU_annotators``: the answer becomes the nearest segments, which are right if the three
    annotators that agree with them best chose exactly these; the overlap is the mean over the same
    three (Hendricks et al., 2017). R@5, of five ranked answers, has no meaning for one answer.

    Args:
        rows: from an annotation source.
        respond: who answers.
        labels: what each query uses and needs (``load_labels``); None: no breakdown.
    """

    metrics = (*RECALLS, "mIoU", "parse_failures", *BY_ANNOTATORS)

    def __init__(
        self,
        *,
        rows: Sequence[TemporalRow],
        respond: TimeResponder,
        labels: Labels | None = None,
    ) -> None:
        self.rows = rows
        self.respond = respond
        self.labels = labels or {}
        unknown = [row.key for row in rows if labels is not None and row.key not in labels]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(rows)} queries have no labels, e.g. key {unknown[0]!r}; "
                "the labels belong to another data set"
            )
        videos: dict[str, list[TemporalRow]] = {}
        for row in rows:
            videos.setdefault(row.video, []).append(row)
        self.videos = list(videos.values())

    def __len__(self) -> int:
        return len(self.videos)

    def predict(self, model: Any, index: int) -> list[Record]:
        rows = self.videos[index]
        answers = self.respond.answer(model, rows)
        return [
            self._record(row, text, interval)
            for row, (text, interval) in zip(rows, answers, strict=True)
        ]

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        recalls = {
            name: _mean([record["iou"] >= overlap for record in records])
            for name, overlap in zip(RECALLS, OVERLAPS, strict=True)
        }
        failures = _mean([record["predicted"] is None for record in records])
        overall = recalls | _leading(records) | {"parse_failures": failures}
        return overall | _of_annotators(records) | by_uses(records, _leading)

    def fingerprint(self) -> str:
        text = f"{list(self.rows)!r} {self.respond.describe()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _record(self, row: TemporalRow, text: str, interval: Interval | None) -> Record:
        duration = self.respond.duration(row)
        truth = (row.start, min(row.end, duration))  # a last segment ends with its video
        return {
            "video_id": row.video,
            "query": row.query,
            "key": row.key,
            **self.labels.get(row.key, {}),
            "answer": text,
            "predicted": None if interval is None else list(interval),
            "truth": list(truth),
            "duration": duration,
            "iou": 0.0 if interval is None else interval_iou(interval, truth),
            **annotators_scores(row, interval),
        }


def interval_iou(one: Interval, other: Interval) -> float:
    """Overlap of two intervals over what both cover together; 0 where neither has a length."""
    intersection = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    union = (one[1] - one[0]) + (other[1] - other[0]) - intersection
    return intersection / union if union > 0 else 0.0


def annotators_scores(row: TemporalRow, interval: Interval | None) -> Record:
    """``annotators_right`` and ``annotators_iou`` of an answer; nothing where nobody chose."""
    if row.segments is None:
        return {}
    right, overlap = (
        (False, 0.0) if interval is None else row.segments.score(row.segments.nearest(*interval))
    )
    return {"annotators_right": right, "annotators_iou": overlap}


def _of_annotators(records: Sequence[Record]) -> dict[str, float]:
    judged = [record for record in records if "annotators_iou" in record]
    if not judged:
        return {}
    right = _mean([record["annotators_right"] for record in judged])
    overlap = _mean([record["annotators_iou"] for record in judged])
    return dict(zip(BY_ANNOTATORS, (right, overlap), strict=True))


def _leading(records: Sequence[Record]) -> dict[str, float]:
    overlaps = [record["iou"] for record in records]
    return {"R1@0.5": _mean([iou >= 0.5 for iou in overlaps]), "mIoU": _mean(overlaps)}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
