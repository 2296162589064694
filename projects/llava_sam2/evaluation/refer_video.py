"""Referring expressions in videos: J, F and J&F over all frames, mean over expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from projects.common.masks import encode_rle
from projects.llava_sam2.datasets.labels import Labels
from projects.llava_sam2.datasets.rows import Expression, Row
from projects.llava_sam2.evaluation.breakdown import Record, by_uses
from projects.llava_sam2.evaluation.refer_image import checked_labels, fingerprint, first_mask
from projects.llava_sam2.evaluation.responders import Responder
from projects.llava_sam2.predictor import Answer
from projects.sam2_video.evaluation.davis import boundary_measure, region_similarity


class ReferVideoBenchmark:
    """One item is a video with all its expressions.

    Metrics (fractions), as referring video segmentation reports them: ``J`` and ``F`` of an
    expression are means over all frames of the video, where a frame that is empty in both counts
    1; then the mean over expressions. ``J&F`` is the mean of both; ``answered`` the share of
    expressions for which a [SEG] came. J&F also by what the expression uses (``breakdown``).

    Args:
        rows: of videos, from an annotation source.
        respond: who answers.
        labels: what each expression uses and needs (``load_labels``); None: no breakdown.
    """

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        respond: Responder,
        labels: Labels | None = None,
    ) -> None:
        images = [row.name for row in rows if row.frames is None]
        if images:
            raise ValueError(f"ReferVideoBenchmark takes videos; {images[0]} is an image")
        self.rows = rows
        self.respond = respond
        self.labels = checked_labels(rows, labels)

    def __len__(self) -> int:
        return len(self.rows)

    def predict(self, model: Any, index: int) -> list[Record]:
        row = self.rows[index]
        answers = self.respond.answer(model, row)
        size = row[0].shape[:2]
        return [
            self._record(row, expression, answer, size)
            for expression, answer in zip(row.expressions, answers, strict=True)
        ]

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        answered = sum(record["seg_tokens"] > 0 for record in records) / len(records)
        return _jf_metrics(records) | {"answered": answered} | by_uses(records, _mean_jf)

    def fingerprint(self) -> str:
        return fingerprint(self.rows, self.respond)

    def _record(
        self, row: Row, expression: Expression, answer: Answer, size: tuple[int, int]
    ) -> Record:
        region, boundary, predictions, truths = [], [], [], []
        for frame in range(len(row)):
            truth = row.read_mask(expression.objects, frame, size)
            predicted = first_mask(answer, frame, size)
            region.append(region_similarity(predicted, truth))
            boundary.append(boundary_measure(predicted, truth))
            predictions.append(encode_rle(predicted))
            truths.append(encode_rle(truth))
        return {
            "video": str(row.source),
            "frames": list(row.frames or ()),
            "expression": expression.text,
            "key": expression.key,
            **self.labels.get(expression.key, {}),
            "answer": answer.text,
            "seg_tokens": len(answer.masks),
            "J": float(np.mean(region)),
            "F": float(np.mean(boundary)),
            "pred": predictions,
            "gt": truths,
        }


def _jf_metrics(records: Sequence[Record]) -> dict[str, float]:
    region = float(np.mean([record["J"] for record in records]))
    boundary = float(np.mean([record["F"] for record in records]))
    return {"J": region, "F": boundary, "J&F": (region + boundary) / 2}


def _mean_jf(records: Sequence[Record]) -> dict[str, float]:
    return {"J&F": _jf_metrics(records)["J&F"]}
