"""Referring expressions in images: cIoU and gIoU; for many objects or none also N-acc and T-acc."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from projects.common.masks import encode_rle
from projects.llava_sam2.datasets.labels import Labels
from projects.llava_sam2.datasets.rows import Expression, Row
from projects.llava_sam2.evaluation.breakdown import Record, by_uses
from projects.llava_sam2.evaluation.responders import Responder
from projects.llava_sam2.predictor import Answer


class ReferImageBenchmark:
    """One item is an image with all its expressions; one prediction per expression.

    Metrics (fractions): ``cIoU``, the sum of all intersections over the sum of all unions;
    ``gIoU``, the mean IoU, where empty against empty counts 1; ``answered``, the share of
    expressions for which a [SEG] came; each also by what the expression uses (``breakdown``).

    Args:
        rows: of images, from an annotation source.
        respond: who answers.
        labels: what each expression uses and needs (``load_labels``); None: no breakdown.
    """

    metrics: ClassVar[tuple[str, ...]] = ("cIoU", "gIoU", "answered")

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        respond: Responder,
        labels: Labels | None = None,
    ) -> None:
        videos = [row.name for row in rows if row.frames is not None]
        if videos:
            raise ValueError(f"ReferImageBenchmark takes images; {videos[0]} is a video")
        self.rows = rows
        self.respond = respond
        self.labels = checked_labels(rows, labels)

    def __len__(self) -> int:
        return len(self.rows)

    def predict(self, model: Any, index: int) -> list[Record]:
        row = self.rows[index]
        answers = self.respond.answer(model, row)
        return [
            self._record(row, expression, answer)
            for expression, answer in zip(row.expressions, answers, strict=True)
        ]

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        return image_metrics(records) | by_uses(records, _iou_metrics)

    def fingerprint(self) -> str:
        return fingerprint(self.rows, self.respond)

    def _record(self, row: Row, expression: Expression, answer: Answer) -> Record:
        truth = row.read_mask(expression.objects, 0, row.size or row[0].shape[:2])
        predicted = self._predicted(answer, truth.shape)
        intersection, union = int((predicted & truth).sum()), int((predicted | truth).sum())
        return {
            "image": str(row.source),
            "expression": expression.text,
            "key": expression.key,
            **self.labels.get(expression.key, {}),
            "answer": answer.text,
            "seg_tokens": len(answer.masks),
            "intersection": intersection,
            "union": union,
            "predicted": int(predicted.sum()),
            "iou": intersection / union if union else 1.0,
            "pred": encode_rle(predicted),
            "gt": encode_rle(truth),
        }

    def _predicted(self, answer: Answer, size: tuple[int, int]) -> np.ndarray:
        return first_mask(answer, 0, size)


class GeneralizedReferBenchmark(ReferImageBenchmark):
    """Expressions for any number of objects (gRefCOCO), measured as in GRES (Liu et al., 2023).

    The prediction is the union of all [SEG] of the answer; without one, or with fewer pixels than
    ``least_pixels``, it says that there is nothing.

    Metrics (fractions): ``gIoU``, where an expression for nothing counts 1 if nothing is predicted
    and 0 otherwise; ``cIoU``, in which its false pixels add to the union; ``N-acc``, the share of
    expressions for nothing that are answered so; ``T-acc``, the share of the others that are not;
    ``answered``. N-acc and T-acc are left out where there is nothing to measure them on.

    Args:
        rows, respond, labels: as of :class:`ReferImageBenchmark`.
        least_pixels: GRES takes 50 for models that do not say whether there is something.
    """

    metrics = (*ReferImageBenchmark.metrics, "N-acc", "T-acc")

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        respond: Responder,
        labels: Labels | None = None,
        least_pixels: int = 50,
    ) -> None:
        super().__init__(rows=rows, respond=respond, labels=labels)
        self.least_pixels = least_pixels

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        return generalized_metrics(records) | by_uses(records, _iou_metrics)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} {self.least_pixels}"

    def _record(self, row: Row, expression: Expression, answer: Answer) -> Record:
        return super()._record(row, expression, answer) | {"no_target": not expression.objects}

    def _predicted(self, answer: Answer, size: tuple[int, int]) -> np.ndarray:
        mask = np.zeros(size, dtype=bool)
        for segment in range(len(answer.masks)):
            mask |= answer.mask(0, segment)
        return mask if mask.sum() >= self.least_pixels else np.zeros(size, dtype=bool)


def generalized_metrics(records: Sequence[Record]) -> dict[str, float]:
    """See :class:`GeneralizedReferBenchmark`."""
    nothing = [record for record in records if record["no_target"]]
    something = [record for record in records if not record["no_target"]]
    metrics = image_metrics(records)
    if nothing:  # its union is the prediction alone
        metrics["N-acc"] = sum(record["union"] == 0 for record in nothing) / len(nothing)
    if something:
        metrics["T-acc"] = sum(record["predicted"] > 0 for record in something) / len(something)
    return metrics


def image_metrics(records: Sequence[Record]) -> dict[str, float]:
    answered = sum(record["seg_tokens"] > 0 for record in records) / len(records)
    return _iou_metrics(records) | {"answered": answered}


def _iou_metrics(records: Sequence[Record]) -> dict[str, float]:
    union = sum(record["union"] for record in records)
    intersection = sum(record["intersection"] for record in records)
    return {
        "cIoU": intersection / union if union else 1.0,
        "gIoU": float(np.mean([record["iou"] for record in records])),
    }


def first_mask(answer: Answer, frame: int, size: tuple[int, int]) -> np.ndarray:
    """Mask of an answer's first [SEG] on a frame; empty when it has none.

    A referring question asks for one mask, so further ones do not count.
    """
    if not answer.masks:
        return np.zeros(size, dtype=bool)
    return answer.mask(frame)


def checked_labels(rows: Sequence[Row], labels: Labels | None) -> Labels:
    """``labels`` if they know every expression; an empty mapping for None."""
    if labels is None:
        return {}
    keys = [expression.key for row in rows for expression in row.expressions]
    unknown = [key for key in keys if key not in labels]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(keys)} expressions have no labels, e.g. key {unknown[0]!r}; "
            "the labels belong to another data set"
        )
    return labels


def fingerprint(rows: Sequence[Row], respond: Responder) -> str:
    """Changes with the questions and with who answers (not with the weights)."""
    text = f"{list(rows)!r} {respond.describe()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
