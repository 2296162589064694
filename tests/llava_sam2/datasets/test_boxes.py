"""Boxes as text and back, box files, and samples whose answers are the boxes of their pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from projects.common.conversation import SHARED_TOKENS, load_shared_tokenizer
from projects.common.masks import mask_to_box
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.box_rows import box_rows, object_boxes
from projects.llava_sam2.datasets.box_text import box_text, parse_boxes, relative_box
from projects.llava_sam2.datasets.boxes import BoxDataset
from projects.llava_sam2.datasets.frame_samplers import RandomFrames, UniformFrames
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.pixels import HorizontalFlip
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from projects.toy_world.tokenizer import write_tokenizer
from tests.llava_sam2.datasets import tiny
from tests.llava_sam2.datasets.tiny import HEIGHT, WIDTH, tiny_inputs

QUESTION = "<SPATIAL> where is {expression} ?"
BOX = (0.1, 0.25, 0.48, 0.755)
OTHER = (0.5, 0.0, 1.0, 0.42)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    write_tokenizer(folder)
    return load_shared_tokenizer(folder)


@pytest.fixture
def inputs(tokenizer, tmp_path):
    return tiny_inputs(tmp_path / "unused", tokenizer=tokenizer)


# ---- text


def test_the_text_of_the_recipe():
    one = "<box>0.100,0.250,0.480,0.755</box>"
    assert box_text([[BOX]], video=False) == one + "<single_img>"
    assert box_text([[BOX], [], [BOX]], video=True) == (
        f"{one}<next><box><no_box></box><next>{one}"
    )
    assert box_text([[BOX, OTHER]], video=True) == (
        "<box>0.100,0.250,0.480,0.755<box_sep>0.500,0.000,1.000,0.420</box>"
    )


def test_text_and_boxes_round_trip():
    """Through the tokenizer's spaces too; thin boxes stay boxes."""
    draw = np.random.default_rng(0)
    for count in (1, 2, 6):
        frames = []
        for _ in range(count):
            corners = np.sort(draw.random((int(draw.integers(0, 4)), 2, 2)), axis=1)
            frames.append([(x1, y1, x2, y2) for (x1, y1), (x2, y2) in corners.tolist()])
        text = box_text(frames, video=count > 1)
        for spelling in (text, " ".join(text)):
            parsed = parse_boxes(spelling, count)
            assert parsed.whole
            for found, given in zip(parsed.frames, frames, strict=True):
                assert np.allclose(np.array(found), np.array(given), atol=1.01e-3)
    for thin in ((0.5, 0.2, 0.50004, 0.9), (0.9998, 0.2, 1.0, 0.9), (0.0, 0.99999, 1.0, 1.0)):
        assert parse_boxes(box_text([[thin]], video=False), 1).whole


def test_every_token_of_an_answer_is_known(tokenizer):
    text = box_text([[BOX, OTHER], []], video=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words[:7] == ["<box>", "0", ".", "1", "0", "0", ","]
    assert words[-4:] == ["<next>", "<box>", "<no_box>", "</box>"]
    assert set(SHARED_TOKENS) <= set(tokenizer.get_vocab())
    assert parse_boxes(tokenizer.decode(ids), 2).frames == [[BOX, OTHER], []]


@pytest.mark.parametrize(
    ("text", "frames", "expected", "further"),
    [
        ("", 1, [None], 0),
        ("I see no box.", 1, [None], 0),
        ("<box>0.1,0.2,0.3,0.4</box>", 1, [[(0.1, 0.2, 0.3, 0.4)]], 0),
        ("It is <box>0.1,.2,0.3,1</box>.", 1, [[(0.1, 0.2, 0.3, 1.0)]], 0),
        ("<box>0.1,0.2,0.3</box>", 1, [None], 0),
        ("<box>0.1,0.2,0.3,0.4,0.5</box>", 1, [None], 0),
        ("<box>0.3,0.2,0.1,0.4</box>", 1, [None], 0),
        ("<box>0.1,0.2,0.1,0.4</box>", 1, [None], 0),
        ("<box>0.1,0.2,0.3,1.4</box>", 1, [None], 0),
        ("<box>12,20,30,40</box>", 1, [None], 0),
        ("<box>0.1,0.2,0.3,-0.4</box>", 1, [None], 0),
        ("<box>a,b,c,d</box>", 1, [None], 0),
        ("<box></box>", 1, [None], 0),
        ("<box>0.1,0.2,0.3,0.4<box_sep></box>", 1, [None], 0),
        ("<box>0.1,0.2,0.3,0.4</box><box><no_box></box>", 1, [None], 0),
        ("<box><no_box></box><single_img>", 1, [[]], 0),
        ("<box><no_box></box><next><box>0.1,0.2,0.3,", 2, [[], None], 0),  # cut off
        ("<box><no_box></box>", 3, [[], None, None], 0),
        ("<box><no_box></box><next><next><box><no_box></box>", 3, [[], None, []], 0),
        ("<box><no_box></box><next><box><no_box></box>", 1, [[]], 1),
    ],
)
def test_what_answers_say(text, frames, expected, further):
    parsed = parse_boxes(text, frames)
    assert parsed.frames == expected and parsed.further == further
    assert parsed.whole == (None not in expected and not further)


@pytest.mark.parametrize("box", [(0.5, 0.1, 0.5, 0.2), (0.5, 0.1, 1.2, 0.2), (0.5, 0.3, 0.6, 0.2)])
def test_boxes_that_are_none_are_not_written(box):
    with pytest.raises(ValueError, match="is not x1, y1, x2, y2 within"):
        box_text([[box]], video=False)
    with pytest.raises(ValueError, match="2 frames of boxes for an image"):
        box_text([[], []], video=False)


def test_relative_boxes():
    assert relative_box((10, 5, 20, 20), (20, 40), where="x") == (0.25, 0.25, 0.5, 1.0)
    assert relative_box((-0.4, 5, 40.6, 20), (20, 40), where="x") == (0.0, 0.25, 1.0, 1.0)
    for box in ((10, 5, 42, 20), (10, 5, 10, 20), (40, 5, 40.5, 20), (30, 5, 20, 20)):
        with pytest.raises(ValueError, match=r"row 7: box .* in a frame of 20x40"):
            relative_box(box, (20, 40), where="row 7")


# ---- rows


def write_boxes(root):
    """The tiny MeViS split, and its boxes taken from the pixels of its masks."""
    tiny.write_mevis(root)
    _, masks = tiny.mevis_content()
    boxes = {}
    for key, track in masks.items():
        decoded = [None if rle is None else tiny.coco.decode(rle).astype(bool) for rle in track]
        boxes[key] = [None if mask is None else mask_to_box(mask) for mask in decoded]
    (root / "mevis_bbox.json").write_text(json.dumps(boxes))
    return dict(
        file=root / "meta_expressions.json",
        boxes=root / "mevis_bbox.json",
        frame_root=root / "JPEGImages",
    )


def test_rows_of_boxes_are_those_of_masks(tmp_path):
    settings = write_boxes(tmp_path / "mevis")
    from_boxes, from_masks = box_rows(**settings), mevis_rows(root=tmp_path / "mevis")
    assert [row.name for row in from_boxes] == [row.name for row in from_masks]
    size = (HEIGHT, WIDTH)
    for ours, other in zip(from_boxes, from_masks, strict=True):
        assert [(e.text, e.key) for e in ours.expressions] == [
            (e.text, e.key) for e in other.expressions
        ]
        for one, two in zip(ours.expressions, other.expressions, strict=True):
            for frame in range(len(ours)):
                found = object_boxes(ours, one.objects, frame, size)
                assert found == object_boxes(other, two.objects, frame, size)
                rectangles = ours.read_mask(one.objects, frame, size)
                assert not (other.read_mask(two.objects, frame, size) & ~rectangles).any()
    assert object_boxes(from_boxes[0], (0,), 0, size) == [(0, 0, 6 / WIDTH, 6 / HEIGHT)]
    assert object_boxes(from_boxes[0], (0,), 1, size) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"7": None}, r"expression 0: no anno_id 7 in .*mevis_bbox\.json"),
        ({"7": [None] * 2}, "anno_id 7 .* has 2 boxes for 3 frames"),
        ({"7": [None] * 3, "10": [None] * 3}, "all its masks are empty"),
        ({"7": [[0, 0, 40, 4], None, None]}, r"frame 0: box \[0, 0, 40, 4\] .* frame of 20x32"),
        ({"7": [[0, 0, 4], None, None]}, r"frame 0: a box is \[x1, y1, x2, y2\]"),
        ({"7": ["a", None, None]}, r"frame 0: a box is"),
    ],
)
def test_bad_boxes_are_named_and_may_be_skipped(tmp_path, caplog, change, reason):
    settings = write_boxes(tmp_path)
    content = json.loads(settings["boxes"].read_text())
    settings["boxes"].write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=rf"(?s)2 bad records:\n  video clip_a .*{reason}"):
        box_rows(**settings)
    assert [row.name for row in box_rows(**settings, on_bad_row="skip")] == ["clip_b"]
    assert "2 bad records" in caplog.text


def test_a_box_up_to_a_pixel_out_of_its_frame_is_a_rectangle_within(tmp_path):
    settings = write_boxes(tmp_path)
    content = json.loads(settings["boxes"].read_text())
    content["7"][0] = [-0.9, -0.6, 6.2, 6.9]
    settings["boxes"].write_text(json.dumps(content))
    mask = box_rows(**settings)[0].objects[0].read(0)
    np.testing.assert_array_equal(mask, tiny.block(0, 0, 7, 6))


def test_videos_and_files_that_are_not_there(tmp_path):
    settings = write_boxes(tmp_path)
    meta = json.loads(settings["file"].read_text())
    meta["videos"]["../x"] = meta["videos"].pop("clip_b")
    meta["videos"]["clip_a"]["frames"].append("00009")
    settings["file"].write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"(?s)1 of 4 frames are not in .*'\.\./x' leads out of"):
        box_rows(**settings)
    meta["videos"]["clip_a"]["expressions"]["0"].pop("anno_id")
    meta["videos"]["clip_a"]["frames"].pop()
    settings["file"].write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="names no anno_id"):
        box_rows(**settings)
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        box_rows(**settings | {"boxes": tmp_path / "nothing.json"})


def test_images_take_the_box_of_their_annotation(tmp_path):
    instances, refs = tiny.refcoco_content()
    instances["annotations"][0]["bbox"] = [1.5, 4.25, 9.0, 8.0]  # looser than its polygon
    row = refcoco_rows(**tiny.write_refcoco(tmp_path, instances, refs), split="train")[0]
    first, second = (object_boxes(row, e.objects, 0, row.size) for e in row.expressions[::2])
    assert first == [(1.5 / WIDTH, 4.25 / HEIGHT, 10.5 / WIDTH, 12.25 / HEIGHT)]
    assert second == [(20 / WIDTH, 6 / HEIGHT, 30 / WIDTH, 18 / HEIGHT)]  # of its mask


# ---- samples


def supervised(inputs, sample):
    ids = sample.labels[sample.labels != -100]
    return inputs.tokenizer.decode(ids).replace(" ", "")


def test_the_answer_says_the_boxes_of_the_frames_that_are_seen(tmp_path, inputs):
    rows = box_rows(**write_boxes(tmp_path))
    dataset = BoxDataset(
        rows=rows, inputs=inputs, questions=[QUESTION], expressions=2, frames=RandomFrames(num=2)
    )
    assert dataset.task == "box" and len(dataset) == 2
    seen = set()
    for seed in range(12):
        sample = dataset[Draw(0, 0, seed)]
        assert sample.pixel_values.shape == (2, 3, 16, 16)
        assert sample.masks is None and sample.grounding_frames is None
        tiles = inputs.pixel_values(rows[0].read(range(3)), video=True)
        shown = [
            next(n for n in range(3) if np.array_equal(tiles[n], tile))
            for tile in sample.pixel_values
        ]
        seen.add(tuple(shown))
        one = [object_boxes(rows[0], (0,), frame, (HEIGHT, WIDTH)) for frame in shown]
        both = [object_boxes(rows[0], (0, 1), frame, (HEIGHT, WIDTH)) for frame in shown]
        answers = supervised(inputs, sample).split("<|im_end|>")[:2]
        assert sorted(answers) == sorted(box_text(boxes, video=True) for boxes in (one, both))
    assert seen == {(0, 1), (0, 2), (1, 2)}


def test_an_image_ends_in_its_own_token(tmp_path, inputs):
    rows = refcoco_rows(**tiny.write_refcoco(tmp_path), split="train")
    sample = BoxDataset(rows=rows, inputs=inputs, questions=[QUESTION])[1]
    left, top, right, bottom = 12 / WIDTH, 0, 18 / WIDTH, 5 / HEIGHT
    expected = f"<box>{left:.3f},{top:.3f},{right:.3f},{bottom:.3f}</box><single_img><|im_end|>"
    assert supervised(inputs, sample) == expected
    words = inputs.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    assert words[-len(expected) :].count("<SPATIAL>") == 1 and "blue" in words


def test_lengths_are_those_of_samples(tmp_path, inputs):
    for rows in (
        refcoco_rows(**tiny.write_refcoco(tmp_path / "images"), split="train"),
        box_rows(**write_boxes(tmp_path / "mevis")),
    ):
        dataset = BoxDataset(rows=rows, inputs=inputs, questions=[QUESTION], expressions=9)
        for index in range(len(rows)):
            drawn = len(dataset[index].input_ids)
            # a thing that is absent from a frame takes one token in place of up to 24
            absent = 0 if rows[index].frames is None else 24 * len(rows[index]) * 2
            assert drawn <= dataset.length_of(index) <= drawn + absent


def test_a_mirrored_sample_has_mirrored_boxes(tmp_path, inputs):
    rows = refcoco_rows(**tiny.write_refcoco(tmp_path), split="train")
    plain, flipped = (
        BoxDataset(
            rows=rows,
            inputs=inputs,
            questions=[QUESTION],
            flip=HorizontalFlip(probability=p, words={"left": "right"}),
        )
        for p in (0.0, 1.0)
    )
    for seed in range(4):
        before, after = plain[Draw(0, 0, seed)], flipped[Draw(0, 0, seed)]
        assert np.allclose(before.pixel_values.flip(-1), after.pixel_values, atol=1)
        one, two = (parse_boxes(supervised(inputs, s), 1).frames[0] for s in (before, after))
        x1, y1, x2, y2 = one[0]
        assert two[0] == pytest.approx((1 - x2, y1, 1 - x1, y2), abs=1e-3)
        words = [inputs.tokenizer.decode(s.input_ids) for s in (before, after)]
        assert ("left" in words[0]) == ("right" in words[1])


def test_nothing_is_a_box_too(tmp_path, inputs):
    row = refcoco_rows(**tiny.write_refcoco(tmp_path), split="val")[0]
    nobody = row.__class__(
        row.name, row.source, None, row.size, row.objects,
        tuple(e.__class__(e.text, (), e.key) for e in row.expressions),
    )  # fmt: skip
    sample = BoxDataset(rows=[nobody], inputs=inputs, questions=[QUESTION])[0]
    assert supervised(inputs, sample) == "<box><no_box></box><single_img><|im_end|>"


def test_wrong_settings_raise(tmp_path, inputs):
    rows = refcoco_rows(**tiny.write_refcoco(tmp_path), split="val")
    with pytest.raises(ValueError, match="questions need {expression}; found .'where'"):
        BoxDataset(rows=rows, inputs=inputs, questions=["where"])
    with pytest.raises(ValueError, match="at least 1 expression"):
        BoxDataset(rows=rows, inputs=inputs, expressions=0)
    with pytest.raises(ValueError, match="no token"):
        BoxDataset(rows=rows, inputs=tiny_inputs(tmp_path / "plain"))
    wordy = load_shared_tokenizer(tiny.write_tokenizer(tmp_path / "wordy"))
    with pytest.raises(ValueError, match="cannot spell '<box>0.123"):
        BoxDataset(rows=rows, inputs=tiny_inputs(tmp_path / "other", tokenizer=wordy))


def test_defaults_are_the_recipe(inputs, tmp_path):
    rows = refcoco_rows(**tiny.write_refcoco(tmp_path), split="val")
    dataset = BoxDataset(rows=rows, inputs=inputs)
    assert isinstance(dataset.frames, UniformFrames) and dataset.frames.num == 6
    assert all(question.startswith("<SPATIAL>") for question in dataset.questions)
