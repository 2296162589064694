"""Published counts: the splits sum up to the totals that the papers give, rows are compared."""

from __future__ import annotations

import pytest

from projects.llava_sam2.datasets import published
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.published import PUBLISHED, Published, count_rows, differences
from projects.llava_sam2.datasets.refcoco import grefcoco_rows, refcoco_rows
from projects.llava_sam2.datasets.temporal_row import TemporalRow
from tests.llava_sam2.datasets.tiny import write_mevis, write_refcoco
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
    splits = [counts for key, (counts, *_) in PUBLISHED.items() if key[:2] == (dataset, split_by)]
    if images is not None:
        assert sum(counts.images for counts in splits) == images
    assert sum(counts.refs for counts in splits) == refs
    assert sum(counts.expressions for counts in splits) == expressions


def test_rows_are_counted_and_compared(tmp_path, monkeypatch):
    rows = refcoco_rows(**write_refcoco(tmp_path / "r"), split="train")
    assert count_rows(rows) == Published(images=2, refs=3, expressions=4)
    many = grefcoco_rows(**write_grefcoco(tmp_path / "g"), split="train")
    assert count_rows(many) == Published(images=2, refs=4, expressions=7)
    where = dict(
        reader="refcoco_rows", arguments={"root": "any/refcoco", "split": "train", "limit": None}
    )
    assert differences(rows, **where) == [
        "2 images, published are 16994",
        "3 refs, published are 42404",
        "4 expressions, published are 120624",
    ]
    monkeypatch.setitem(published.PUBLISHED, ("refcoco", "unc", "train"), (Published(2, 3),))
    assert differences(rows, **where) == []
    mine = {"root": "any/refcoco", "split": "mine"}
    assert differences(rows, reader="refcoco_rows", arguments=mine) == []
    assert differences(rows, reader="my_rows", arguments=mine) == []


def test_of_two_releases_the_nearest_counts(tmp_path, monkeypatch):
    root = write_mevis(tmp_path / "mevis" / "valid_u")
    rows = mevis_rows(root=root)
    where = dict(reader="mevis_rows", arguments={"root": str(root)})
    assert differences(rows, **where) == [
        "3 expressions, published are 793",
        "2 videos, published are 50",
    ]
    releases = (Published(videos=9, expressions=3), Published(videos=2, expressions=3))
    monkeypatch.setitem(published.PUBLISHED, ("mevis", "valid_u"), releases)
    assert differences(rows, **where) == []
    monkeypatch.setitem(published.PUBLISHED, ("mevis", "valid_u"), releases[:1])
    assert differences(rows, **where) == ["2 videos, published are 9"]


@pytest.mark.parametrize(
    ("reader", "arguments", "key"),
    [
        ("ref_ytvos_rows", {"root": "x", "split": "train"}, ("ref_ytvos", "train")),
        ("ref_davis_rows", {"root": "x"}, ("ref_davis17", "valid")),
        ("charades_rows", {"file": "a/charades_sta_test.txt"}, ("charades", "test")),
        ("didemo_rows", {"file": "a/val_data.json"}, ("didemo", "val")),
    ],
)
def test_what_a_reader_is_asked_for_has_its_counts(reader, arguments, key):
    assert published._KEYS[reader](arguments) == key and key in PUBLISHED


def test_queries_and_their_videos_are_counted(tmp_path):
    rows = [
        TemporalRow(video, f"{video}/{n}", tmp_path, "a dog", 0.0, 1.0, None)
        for video, n in (("a", 0), ("a", 1), ("b", 0))
    ]
    assert count_rows(rows) == Published(videos=2, queries=3)
