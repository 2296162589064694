"""Published counts: the splits sum up to the totals that the papers give, rows are compared."""

from __future__ import annotations

import pytest

from projects.llava_sam2.datasets import published
from projects.llava_sam2.datasets.published import PUBLISHED, Published, count_rows, differences
from projects.llava_sam2.datasets.refcoco import grefcoco_rows, refcoco_rows
from tests.llava_sam2.datasets.tiny import write_refcoco
from tests.llava_sam2.datasets.tiny_images import write_grefcoco


@pytest.mark.parametrize(
    ("dataset", "split_by", "images", "refs", "expressions"),
    [
        ("refcoco", "unc", 19994, 50000, 142210),
        ("refcoco+", "unc", 19992, 49856, 141564),
        ("refcocog", "umd", 25799, 49822, 95010),
        ("refcocog", "google", None, 49822, 95010),  # an image is in train and in val
    ],
)
def test_splits_sum_up_to_the_totals(dataset, split_by, images, refs, expressions):
    splits = [counts for key, counts in PUBLISHED.items() if key[:2] == (dataset, split_by)]
    if images is not None:
        assert sum(counts.images for counts in splits) == images
    assert sum(counts.refs for counts in splits) == refs
    assert sum(counts.expressions for counts in splits) == expressions


def test_rows_are_counted_and_compared(tmp_path, monkeypatch):
    rows = refcoco_rows(**write_refcoco(tmp_path / "r"), split="train")
    assert count_rows(rows) == Published(images=2, refs=3, expressions=4)
    many = grefcoco_rows(**write_grefcoco(tmp_path / "g"), split="train")
    assert count_rows(many) == Published(images=2, refs=4, expressions=7)
    where = dict(dataset="refcoco", split_by="unc", split="train")
    assert differences(rows, **where) == [
        "2 images, published are 16994",
        "3 refs, published are 42404",
        "4 expressions, published are 120624",
    ]
    monkeypatch.setitem(published.PUBLISHED, ("refcoco", "unc", "train"), Published(2, 3))
    assert differences(rows, **where) == []
    assert differences(rows, dataset="mine", split_by="me", split="train") == []
