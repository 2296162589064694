"""RefCOCO and MeViS files to rows, and what is said about bad ones."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.llava_sam2.datasets.labels import load_labels
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.records import RowErrors
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from tests.llava_sam2.datasets.tiny import (
    CROWD,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    block,
    mevis_content,
    refcoco_content,
    rle,
    save_jpeg,
    write_mevis,
    write_refcoco,
)

SIZE = (HEIGHT, WIDTH)


def test_refcoco_groups_all_sentences_of_an_image(tmp_path):
    first, second = refcoco_rows(**write_refcoco(tmp_path), split="train")
    assert [e.text for e in first.expressions] == [
        "the left square",
        "red square",
        "the right circle",
    ]
    assert [e.key for e in first.expressions] == ["10", "11", "20"]
    assert [e.objects for e in first.expressions] == [(0,), (0,), (1,)]
    assert (len(first), first.frames, first.size) == (1, None, SIZE)
    np.testing.assert_array_equal(first.read_mask([0], 0, SIZE), LEFT)  # a polygon
    np.testing.assert_array_equal(first.read_mask([1], 0, SIZE), RIGHT)  # an RLE
    np.testing.assert_array_equal(first.read_mask([0, 1], 0, SIZE), LEFT | RIGHT)
    np.testing.assert_array_equal(second.read_mask([0], 0, SIZE), CROWD)
    assert first.read([0]).shape == (1, HEIGHT, WIDTH, 3)


def test_refcoco_splits(tmp_path):
    files = write_refcoco(tmp_path)
    assert [row.name for row in refcoco_rows(**files, split="val")] == ["im_3.jpg"]
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p: no refs of split 'testA'; .*train, val"):
        refcoco_rows(**files, split="testA")
    with pytest.raises(FileNotFoundError, match=r"refs\(umd\)\.p"):
        refcoco_rows(**files, split="train", split_by="umd")
    assert len(refcoco_rows(**files, split="train", limit=1)) == 1


def _unknown_annotation(instances, refs):
    refs[1]["ann_id"] = 999
    return r"ref_id 2 \(ann_id 999\): 999 is no annotation of image_id 1 in .*instances\.json"


def _annotation_of_another_image(instances, refs):
    refs[0]["ann_id"] = 21
    return r"ref_id 1 \(ann_id 21\): 21 is no annotation of image_id 1"


def _empty_sentence(instances, refs):
    refs[0]["sentences"][1]["sent"] = "  "
    return r"ref_id 1 sent_id 11: empty expression"


def _empty_mask(instances, refs):
    instances["annotations"][1]["segmentation"] = rle(np.zeros(SIZE, bool))
    return r"ref_id 2 \(ann_id 12\): all its masks are empty"


def _broken_rle(instances, refs):
    instances["annotations"][1]["segmentation"] = {"size": list(SIZE), "counts": [3, 4]}
    return r"ref_id 2 .*instances\.json ann_id 12"


def _broken_polygon(instances, refs):
    instances["annotations"][0]["segmentation"] = [[1, 2, 3]]
    return r"ref_id 1 .*instances\.json ann_id 11"


def _unknown_image(instances, refs):
    refs[0]["image_id"] = refs[1]["image_id"] = 77
    return r"image_id 77: not among the images of .*instances\.json"


def _sentence_without_text(instances, refs):
    del refs[0]["sentences"][1]["sent"]
    return r"ref_id 1: a sentence lacks sent"


def _missing_image_file(instances, refs):
    instances["images"][0]["file_name"] = "gone.jpg"
    return r"image_id 1: no file .*gone\.jpg"


@pytest.mark.parametrize(
    "spoil",
    [
        _unknown_annotation,
        _annotation_of_another_image,
        _empty_sentence,
        _empty_mask,
        _broken_rle,
        _broken_polygon,
        _unknown_image,
        _sentence_without_text,
        _missing_image_file,
    ],
)
def test_refcoco_bad_records_are_named_or_skipped(tmp_path, caplog, spoil):
    instances, refs = refcoco_content()
    message = spoil(instances, refs)
    files = write_refcoco(tmp_path, instances, refs)
    with pytest.raises(ValueError, match=message) as raised:
        refcoco_rows(**files, split="train")
    assert "refs(unc).p: 1 bad records" in str(raised.value)
    assert "on_bad_row='skip'" in str(raised.value)
    with caplog.at_level(logging.WARNING):
        rows = refcoco_rows(**files, split="train", on_bad_row="skip")
    assert "1 bad records" in caplog.text
    kept = [e.text for row in rows for e in row.expressions]
    assert "blue square" in kept and 1 <= len(kept) <= 3


@pytest.mark.parametrize(("part", "field"), [("images", "height"), ("annotations", "segmentation")])
def test_refcoco_incomplete_instances_are_named(tmp_path, part, field):
    instances, refs = refcoco_content()
    del instances[part][1][field]
    files = write_refcoco(tmp_path, instances, refs)
    with pytest.raises(ValueError, match=rf"instances\.json: {part}\[1\] lacks {field}"):
        refcoco_rows(**files, split="train")


def test_refcoco_wrong_files(tmp_path):
    files = write_refcoco(tmp_path)
    (tmp_path / "instances.json").write_text("{")
    with pytest.raises(ValueError, match=r"instances\.json: not valid JSON"):
        refcoco_rows(**files, split="train")
    (tmp_path / "instances.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"instances\.json: not a COCO instances file"):
        refcoco_rows(**files, split="train")
    write_refcoco(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([{"ref_id": 1, "split": "train"}]))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p: record 0 lacks ann_id, image_id"):
        refcoco_rows(**files, split="train")
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p"):
        refcoco_rows(**files, split="train")


def test_an_image_of_another_size_is_named(tmp_path):
    instances, _ = refcoco_content()
    instances["images"][1].update(height=10, width=10)
    instances["annotations"][2]["segmentation"] = rle(np.ones((10, 10), bool))
    _, row = refcoco_rows(**write_refcoco(tmp_path, instances), split="train")
    with pytest.raises(ValueError, match=r"im_2\.jpg: the image is 20x32 .* says 10x10"):
        row.read([0])


def test_an_image_that_does_not_decode_is_named(tmp_path):
    files = write_refcoco(tmp_path)
    (files["image_root"] / "im_1.jpg").write_bytes(b"not a jpeg")
    rows = refcoco_rows(**files, split="train")
    with pytest.raises(ValueError, match=r"im_1\.jpg"):
        rows[0].read([0])


def test_mevis_masks_are_unions_and_null_frames_are_empty(tmp_path):
    row, other = mevis_rows(root=write_mevis(tmp_path))
    assert row.frames == ("00000.jpg", "00001.jpg", "00002.jpg")
    assert [e.key for e in row.expressions] == ["clip_a/0", "clip_a/1"]
    one, both = row.expressions
    assert not row.read_mask(one.objects, 1, SIZE).any()
    np.testing.assert_array_equal(row.read_mask(one.objects, 2, SIZE), block(0, 4, 6, 10))
    expected = block(0, 0, 6, 6) | block(10, 20, 16, 26)
    np.testing.assert_array_equal(row.read_mask(both.objects, 0, SIZE), expected)
    np.testing.assert_array_equal(row.read_mask(both.objects, 1, SIZE), block(10, 18, 16, 24))
    assert row.read([0, 2]).shape == (2, HEIGHT, WIDTH, 3)
    assert len(other.objects) == 1  # only what its own expressions name


def _unknown_anno(meta, masks):
    meta["videos"]["clip_a"]["expressions"]["1"]["anno_id"] = [7, 99]
    return r"video clip_a expression 1: anno_id 99 not in .*mask_dict\.json"


def _empty_text(meta, masks):
    meta["videos"]["clip_a"]["expressions"]["1"]["exp"] = ""
    return r"video clip_a expression 1: empty expression"


def _all_null(meta, masks):
    masks["3"] = [None, None]
    return r"video clip_b expression 0: all its masks are empty"


def _too_few_masks(meta, masks):
    masks["3"] = masks["3"][:1]
    return r"clip_b expression 0: anno_id 3 has 1 masks in .*mask_dict\.json for 2 frames"


def _bad_video_rle(meta, masks):
    masks["3"][0]["counts"] = [1, 2]
    return r"clip_b expression 0: .*mask_dict\.json anno_id 3 frame 0"


def _missing_frame(meta, masks):
    meta["videos"]["clip_b"]["frames"] = ["00000", "00009"]
    return r"video clip_b: 1 of 2 frames are not in .*clip_b, e\.g\. 00009\.jpg"


def _no_annotation(meta, masks):
    del meta["videos"]["clip_b"]["expressions"]["0"]["anno_id"]
    return r"clip_b expression 0: it names no anno_id .*server"


def _no_frames_field(meta, masks):
    del meta["videos"]["clip_b"]["frames"]
    return r"video clip_b: it needs 'frames' and 'expressions'"


@pytest.mark.parametrize(
    "spoil",
    [
        _unknown_anno,
        _empty_text,
        _all_null,
        _too_few_masks,
        _bad_video_rle,
        _missing_frame,
        _no_annotation,
        _no_frames_field,
    ],
)
def test_mevis_bad_records_are_named_or_skipped(tmp_path, spoil):
    meta, masks = mevis_content()
    message = spoil(meta, masks)
    root = write_mevis(tmp_path, meta, masks)
    with pytest.raises(ValueError, match=message) as raised:
        mevis_rows(root=root)
    assert "meta_expressions.json: 1 bad records" in str(raised.value)
    rows = mevis_rows(root=root, on_bad_row="skip")
    assert rows[0].expressions[0].text == "the left square"


def test_mevis_missing_files(tmp_path):
    root = write_mevis(tmp_path)
    (root / "mask_dict.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"mask_dict\.json"):
        mevis_rows(root=root)
    (root / "mask_dict.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"mask_dict\.json: expected an object"):
        mevis_rows(root=root)
    (root / "meta_expressions.json").write_text("[]")
    with pytest.raises(ValueError, match=r"meta_expressions\.json: expected an object"):
        mevis_rows(root=root)


def test_frames_of_different_sizes_are_named(tmp_path):
    row = mevis_rows(root=write_mevis(tmp_path))[0]
    Image.new("RGB", (8, 8)).save(row.source / "00001.jpg")
    with pytest.raises(ValueError, match=r"clip_a: frame 1 is \(8, 8\) .* frame 0 is \(20, 32\)"):
        row.read([0, 1])
    save_jpeg(row.source / "00001.jpg", 5)
    with pytest.raises(ValueError, match=r"clip_a: object 0 has a mask of \(20, 32\) on frame 0"):
        row.read_mask([0], 0, (8, 8))


def test_row_errors_list_ten_and_count_all():
    errors = RowErrors("file.json")
    for number in range(25):
        errors.add(f"record {number}", "bad")
    with pytest.raises(ValueError, match="25 bad records") as raised:
        errors.finish([1])
    text = str(raised.value)
    assert "record 9: bad" in text and "record 10" not in text and "and 15 more" in text
    with pytest.raises(ValueError, match="no usable record"):
        RowErrors("file.json").finish([])
    with pytest.raises(ValueError, match="'error' or 'skip'"):
        RowErrors("file.json", "ignore")


def test_labels_are_keyed_like_the_expressions(tmp_path):
    file = tmp_path / "toy_world.json"
    colour = {"uses": ["colour"], "needs": []}
    motion = {"uses": ["motion"], "needs": ["motion"]}
    labels = {"refcoco": {"10": colour}, "mevis": {"clip_a": {"0": motion, "1": colour}}}
    file.write_text(json.dumps({"labels": labels}))
    assert load_labels(file=file, dataset="refcoco") == {"10": colour}
    assert load_labels(file=file, dataset="mevis") == {"clip_a/0": motion, "clip_a/1": colour}
    with pytest.raises(ValueError, match=r"toy_world\.json: no labels of 'revos'"):
        load_labels(file=file, dataset="revos")
