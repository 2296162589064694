"""How large the released datasets are, to compare a download with.

Counts of the RefCOCO family are those that TensorFlow Datasets (``ref_coco``) and the papers list:
images, refs (objects that are referred to) and sentences, which are called expressions here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from projects.llava_sam2.datasets.rows import Row


class Published(NamedTuple):
    """Counts of one split; None where no source was found."""

    images: int | None = None
    refs: int | None = None
    expressions: int | None = None


# (dataset, who split it, split)
PUBLISHED: dict[tuple[str, str, str], Published] = {
    ("refcoco", "unc", "train"): Published(16994, 42404, 120624),
    ("refcoco", "unc", "val"): Published(1500, 3811, 10834),
    ("refcoco", "unc", "testA"): Published(750, 1975, 5657),
    ("refcoco", "unc", "testB"): Published(750, 1810, 5095),
    ("refcoco", "google", "train"): Published(19213, 40000),
    ("refcoco", "google", "val"): Published(4559, 5000),
    ("refcoco", "google", "test"): Published(4527, 5000),
    ("refcoco+", "unc", "train"): Published(16992, 42278, 120191),
    ("refcoco+", "unc", "val"): Published(1500, 3805, 10758),
    ("refcoco+", "unc", "testA"): Published(750, 1975, 5726),
    ("refcoco+", "unc", "testB"): Published(750, 1798, 4889),
    ("refcocog", "umd", "train"): Published(21899, 42226, 80512),
    ("refcocog", "umd", "val"): Published(1300, 2573, 4896),
    ("refcocog", "umd", "test"): Published(2600, 5023, 9602),
    ("refcocog", "google", "train"): Published(24698, 44822, 85474),
    ("refcocog", "google", "val"): Published(4650, 5000, 9536),
}


def count_rows(rows: Sequence[Row]) -> Published:
    """The same counts of what was read; a ref is an object (or a set of them) that is named."""
    return Published(
        images=len(rows),
        refs=sum(len({expression.objects for expression in row.expressions}) for row in rows),
        expressions=sum(len(row.expressions) for row in rows),
    )


def differences(rows: Sequence[Row], *, dataset: str, split_by: str, split: str) -> list[str]:
    """Where the rows of a split differ from its published counts, in words; empty: nowhere.

    A split that nothing is known of differs nowhere.
    """
    known = PUBLISHED.get((dataset, split_by, split), Published())
    return [
        f"{found} {name}, published are {expected}"
        for name, found, expected in zip(Published._fields, count_rows(rows), known, strict=True)
        if expected is not None and found != expected
    ]
