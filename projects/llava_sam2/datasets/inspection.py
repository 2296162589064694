"""Looks through the rows of a dataset: every picture, mask and sample is read once.

A row with frames and masks is read whole, also that of a grounded caption or of regions; of a query
about times its features. Beside that, the sample that training would make of each row is judged,
which reads the picture or some frames of a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from projects.common.inspection import RecordReport
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.chat import ChatRow
from projects.llava_sam2.datasets.feature_files import load_features
from projects.llava_sam2.datasets.grounded_captions import CaptionRow
from projects.llava_sam2.datasets.regions import RegionRow
from projects.llava_sam2.datasets.rows import AnnotatedFrames
from projects.llava_sam2.datasets.temporal_row import TemporalRow
from projects.llava_sam2.structures import IGNORE_INDEX, GroundingSample


class RowsInspection:
    """Rows, and the dataset that makes samples of them (None for a benchmark), for inspection."""

    def __init__(self, rows: Sequence[Any], dataset: Any = None) -> None:
        self.rows = rows
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.rows)

    def inspect(self, index: int) -> RecordReport:
        """Counts and problems of one row."""
        report = inspect_any(self.rows[index])
        if self.dataset is not None and not report.problems:
            sample = self.dataset[Draw(0, index, 0)]
            report.counts |= _count_sample(sample)
        return report


def inspect_any(row: Any) -> RecordReport:
    """What can be said of a row of whichever kind."""
    if isinstance(row, AnnotatedFrames):
        return inspect_row(row)
    if isinstance(row, CaptionRow | RegionRow):
        report = inspect_row(row.row)
        if isinstance(row, RegionRow):
            report.counts["turns"] = len(row.turns)
        return report
    if isinstance(row, TemporalRow):
        return RecordReport({"queries": 1, "frames": len(load_features(row.features))})
    if isinstance(row, ChatRow):
        shown = {} if row.source is None else {"videos" if row.video else "images": 1}
        return RecordReport({"turns": len(row.turns), **shown})
    return RecordReport()


def inspect_row(row: AnnotatedFrames) -> RecordReport:
    """Decode all frames of a row, and all masks of its objects."""
    problems = []
    seen = np.zeros(len(row.objects), dtype=bool)
    empty = unreadable = 0
    for frame in range(len(row)):
        try:
            size = row[frame].shape[:2]
            shown = [bool(row.read_mask([n], frame, size).any()) for n in range(len(row.objects))]
        except (ValueError, OSError) as error:
            problems.append(f"{row.name}: {error}")
            unreadable += 1
            continue
        seen |= np.array(shown, dtype=bool)
        empty += not any(shown)
    for expression in row.expressions:
        if expression.objects and not unreadable and not seen[list(expression.objects)].any():
            problems.append(f"{row.name}: {expression.text!r} ({expression.key}) has no mask")
    counts = {
        "images" if row.frames is None else "videos": 1,
        "frames": len(row),
        "objects": int(seen.sum()),
        "expressions": len(row.expressions),
        "empty_frames": empty,
        "unreadable": unreadable,
    }
    return RecordReport(counts=counts, problems=problems)


def _count_sample(sample: GroundingSample) -> dict[str, int]:
    """Tokens of a drawn sample: what it costs, and how much of it is learned."""
    return {
        "tokens": len(sample.input_ids),
        "supervised": int((sample.labels != IGNORE_INDEX).sum()),
    }
