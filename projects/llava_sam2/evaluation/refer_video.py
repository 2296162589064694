"""Referring expressions in videos: J, F and J&F over all frames, and the datasets' protocols.

MeViS, Ref-YouTube-VOS: the mean over expressions.
Ref-DAVIS17: the mean over annotators (``average="parts"``), each the mean over expressions.
ReVOS (Yan et al., VISA, 2024): the mean of the referring and the reasoning expressions' scores
(``average="parts"``), and the robustness R of masks beside what they are meant for.
Splits whose masks are with a server: ``SubmissionBenchmark``, in submission.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from projects.common.mask_store import MaskStore
from projects.common.masks import encode_rle
from projects.llava_sam2.datasets.labels import Labels
from projects.llava_sam2.datasets.revos import ABSENT
from projects.llava_sam2.datasets.rows import MASKS_UNKNOWN, Expression, Row
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

    Where expressions belong to parts of the dataset (``Expression.part``: ReVOS' types,
    Ref-DAVIS17's annotators), each score also by part, ``J&F[referring]``. Expressions of the part
    "absent", which name nothing, are scored by part only.

    With ``foreground`` the robustness ``R`` as well, following VISA's evaluation: on each frame
    1 - (predicted pixels outside the expression's mask) / (pixels of all annotated objects), not
    below 0, where a frame without objects counts 1 if nothing wrong is predicted and else 0.

    Args:
        rows: of videos, from an annotation source.
        respond: who answers.
        labels: what each expression uses and needs (``load_labels``); None: no breakdown.
        average: the overall score is the mean over "expressions", or over "parts" of their scores.
        foreground: all objects' union by the video's name, ``mask_dict_foreground.json``
            (``dict(type=open_masks, source=...)``).
    """

    metrics = ("J&F", "J", "F", "answered", "R")

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        respond: Responder,
        labels: Labels | None = None,
        average: str = "expressions",
        foreground: MaskStore | None = None,
    ) -> None:
        if average not in ("expressions", "parts"):
            raise ValueError(f"average is 'expressions' or 'parts', got {average!r}")
        images = [row.name for row in rows if row.frames is None]
        if images:
            raise ValueError(f"ReferVideoBenchmark takes videos; {images[0]} is an image")
        _check_known(rows)
        if average == "parts":
            _check_parts(rows)
        if foreground is not None:
            _check_foreground(rows, foreground)
        self.rows = rows
        self.respond = respond
        self.labels = checked_labels(rows, labels)
        self.average = average
        self.foreground = foreground

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
        parts = by_part(records)
        counted = [record for record in records if record["part"] != ABSENT]
        scores = {f"{k}[{part}]": v for part, of in parts.items() for k, v in _scores(of).items()}
        if self.average == "parts":
            means = [_scores(of) for part, of in parts.items() if part != ABSENT]
            overall = {key: float(np.mean([mean[key] for mean in means])) for key in means[0]}
        else:
            overall = _scores(counted) if counted else {}
        return overall | scores | {"answered": answered} | by_uses(records, _mean_jf)

    def fingerprint(self) -> str:
        return f"{fingerprint(self.rows, self.respond)} {self.foreground!r}"

    def _record(
        self, row: Row, expression: Expression, answer: Answer, size: tuple[int, int]
    ) -> Record:
        region, boundary, robust, predictions, truths = [], [], [], [], []
        for frame in range(len(row)):
            truth = row.read_mask(expression.objects, frame, size)
            predicted = first_mask(answer, frame, size)
            region.append(region_similarity(predicted, truth))
            boundary.append(boundary_measure(predicted, truth))
            if self.foreground is not None:
                around = self.foreground[row.name].read(frame)
                robust.append(robustness(predicted, truth, around))
            predictions.append(encode_rle(predicted))
            truths.append(encode_rle(truth))
        return {
            "video": str(row.source),
            "frames": list(row.frames or ()),
            "expression": expression.text,
            "key": expression.key,
            "part": expression.part,
            **self.labels.get(expression.key, {}),
            "answer": answer.text,
            "seg_tokens": len(answer.masks),
            "J": float(np.mean(region)),
            "F": float(np.mean(boundary)),
            **({"R": float(np.mean(robust))} if robust else {}),
            "pred": predictions,
            "gt": truths,
        }


def robustness(predicted: np.ndarray, truth: np.ndarray, foreground: np.ndarray | None) -> float:
    """1 - (wrongly predicted pixels) / (foreground pixels), from 0 to 1; masks bool [H, W]."""
    wrong = int((predicted & ~truth).sum())
    if wrong == 0:
        return 1.0
    around = 0 if foreground is None else int(foreground.sum())
    return max(1 - wrong / around, 0.0) if around else 0.0


def by_part(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by the part of the dataset that they belong to; those of none are left out."""
    parts: dict[str, list[Record]] = {}
    for record in records:
        if record["part"] is not None:
            parts.setdefault(record["part"], []).append(record)
    return dict(sorted(parts.items()))


def _check_known(rows: Sequence[Row]) -> None:
    for row in rows:
        if any(expression.objects is None for expression in row.expressions):
            raise ValueError(f"{row.name}: {MASKS_UNKNOWN}")


def _check_parts(rows: Sequence[Row]) -> None:
    parts = {expression.part for row in rows for expression in row.expressions}
    if None in parts or not parts - {ABSENT}:
        raise ValueError("average='parts': the dataset's expressions do not belong to parts")


def _check_foreground(rows: Sequence[Row], foreground: MaskStore) -> None:
    for row in rows:
        if row.name not in foreground:
            raise ValueError(f"{foreground.source}: no foreground of video {row.name}")
        frames = len(foreground[row.name])
        if frames != len(row):
            raise ValueError(
                f"{foreground.source}: {frames} masks of video {row.name}, which has {len(row)} "
                "frames"
            )


def _scores(records: Sequence[Record]) -> dict[str, float]:
    region = float(np.mean([record["J"] for record in records]))
    boundary = float(np.mean([record["F"] for record in records]))
    scores = {"J": region, "F": boundary, "J&F": (region + boundary) / 2}
    if "R" in records[0]:
        scores["R"] = float(np.mean([record["R"] for record in records]))
    return scores


def _mean_jf(records: Sequence[Record]) -> dict[str, float]:
    return {"J&F": _scores(records)["J&F"]}
