"""Expressions for many objects and for none: rows, answers, samples, losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.common.conversation import IGNORE_INDEX, SEG
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.pixels import resize_masks
from projects.llava_sam2.datasets.refcoco import grefcoco_rows, refcoco_rows
from projects.llava_sam2.datasets.templates import Templates, named_templates
from projects.llava_sam2.structures import collate_grounding
from tests.llava_sam2.datasets.tiny import (
    LEFT,
    RIGHT,
    refcoco_content,
    rle,
    tiny_inputs,
    write_refcoco,
)
from tests.llava_sam2.datasets.tiny_images import grefcoco_content, write_grefcoco
from tests.llava_sam2.evaluation.tiny_model import toy_model

TEMPLATES = Templates(
    questions=["segment {expression} ."],
    answers=["sure it is [SEG] ."],
    absent=["{expression} , - ."],
)


@pytest.fixture
def rows(tmp_path):
    return grefcoco_rows(**write_grefcoco(tmp_path / "grefcoco"), split="train")


def test_masks_are_unions_and_nothing_is_empty(rows):
    first, second = rows
    one, both, *none = first.expressions
    assert [e.text for e in none] == ["blue dog", "big circle", "the red dog"]
    np.testing.assert_array_equal(first.read_mask(one.objects, 0, first.size), LEFT)
    np.testing.assert_array_equal(first.read_mask(both.objects, 0, first.size), LEFT | RIGHT)
    assert all(e.objects == () for e in none)
    assert [e.key for e in second.expressions] == ["40", "50"]


def test_only_what_is_there_is_answered_with_seg_and_has_a_mask(rows, tmp_path):
    inputs = tiny_inputs(tmp_path / "tokenizer")
    data = GroundingDataset(
        rows=rows, inputs=inputs, templates=TEMPLATES, mask_size=32, expressions=5
    )
    expected = {"the left square": LEFT, "both": LEFT | RIGHT}
    for seed in range(4):
        sample = data[Draw(0, 0, seed)]
        text = " ".join(inputs.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist()))
        turns = text.split("segment ")[1:]
        masks = iter(sample.masks)
        for turn in turns:
            expression, rest = turn.split(" .", 1)
            answer = rest.split("assistant ")[1].split(" <|im_end|>")[0]
            if expression in expected:
                assert answer == "sure it is [SEG] ."
                assert torch.equal(next(masks)[0], resize_masks(expected[expression], 32))
            else:
                assert answer == f"{expression} , - ."
        assert next(masks, None) is None and len(turns) == 5
        supervised = sample.input_ids[sample.labels != IGNORE_INDEX]
        spelt = inputs.tokenizer.convert_ids_to_tokens(supervised.tolist())
        assert spelt.count(SEG) == 2 and "segment" not in spelt


def test_a_sample_without_any_target_trains_its_words_and_no_mask(tmp_path):
    """Its losses are the language loss alone, and beside others it changes no mask loss."""
    instances, refs = grefcoco_content()
    files = write_grefcoco(tmp_path / "g", instances, [refs[2], refs[3]])
    model, inputs = toy_model(tmp_path / "model")
    nothing, square = GroundingDataset(
        rows=grefcoco_rows(**files, split="train"),
        inputs=inputs,
        templates=TEMPLATES,
        mask_size=24,
    )
    assert nothing.masks.shape == (0, 1, 24, 24)
    alone = model.loss(collate_grounding([nothing]))
    assert alone["loss_bce"] == alone["loss_dice"] == 0 and alone["loss_language"] > 0
    both = model.loss(collate_grounding([nothing, square]))
    of_square = model.loss(collate_grounding([square]))
    for name in ("loss_bce", "loss_dice"):
        torch.testing.assert_close(both[name], of_square[name], rtol=1e-4, atol=1e-5)
    alone["loss_language"].backward()
    assert model.mllm.model.lm_head.weight.grad.abs().sum() > 0


def _lying_flag(refs):
    refs[2]["no_target"] = False
    return r"ref_id 3 \(ann_id -1\): no_target is False"


def _flag_without_nothing(refs):
    refs[1]["no_target"] = True
    return r"ref_id 2 \(ann_id 11, 12\): no_target is True"


def _one_of_many_unknown(refs):
    refs[1]["ann_id"] = [11, 77, 21]
    return r"ref_id 2 \(ann_id 11, 77, 21\): 77, 21 is no annotation of image_id 1"


def _names_nothing(refs):
    refs[1]["ann_id"] = []
    return r"ref_id 2 .*it names no annotation; \[-1\] would say"


def _nothing_among_others(refs):
    refs[1]["ann_id"] = [11, -1]
    return r"ref_id 2 \(ann_id 11, -1\): -1 is no annotation"


def _blank(refs):
    refs[2]["sentences"][1]["sent"] = " "
    return r"ref_id 3 sent_id 31: empty expression"


@pytest.mark.parametrize(
    "spoil",
    [
        _lying_flag,
        _flag_without_nothing,
        _one_of_many_unknown,
        _names_nothing,
        _nothing_among_others,
        _blank,
    ],
)
def test_bad_records_are_named_or_skipped(tmp_path, spoil):
    instances, refs = grefcoco_content()
    message = spoil(refs)
    files = write_grefcoco(tmp_path, instances, refs)
    with pytest.raises(ValueError, match=rf"grefs\(unc\)\.json: 1 bad records:\n  {message}"):
        grefcoco_rows(**files, split="train")
    kept = grefcoco_rows(**files, split="train", on_bad_row="skip")
    assert len(kept) == 2 and kept[0].expressions[0].text == "the left square"


def test_some_of_several_masks_may_be_empty_but_not_all(tmp_path):
    instances, refs = grefcoco_content()
    instances["annotations"][1]["segmentation"] = rle(np.zeros_like(LEFT))
    files = write_grefcoco(tmp_path, instances, refs)
    assert len(grefcoco_rows(**files, split="train")[0].expressions) == 5
    instances["annotations"][0]["segmentation"] = rle(np.zeros_like(LEFT))
    files = write_grefcoco(tmp_path, instances, refs)
    with pytest.raises(ValueError, match=r"ref_id 2 \(ann_id 11, 12\): all its masks are empty"):
        grefcoco_rows(**files, split="train")


def test_refcoco_knows_no_nothing(tmp_path):
    files = write_refcoco(tmp_path)
    assert all(e.objects for row in refcoco_rows(**files, split="train") for e in row.expressions)
    _, refs = refcoco_content()
    refs[0]["ann_id"] = -1
    with pytest.raises(ValueError, match=r"ref_id 1 \(ann_id -1\): -1 is no annotation"):
        refcoco_rows(**write_refcoco(tmp_path, None, refs), split="train")


def test_an_image_outside_of_its_folder_is_refused(tmp_path):
    instances, refs = grefcoco_content()
    instances["images"][0]["file_name"] = "../../secret.jpg"
    files = write_grefcoco(tmp_path, instances, refs)
    with pytest.raises(ValueError, match=r"image_id 1: '../../secret\.jpg' leads out of"):
        grefcoco_rows(**files, split="train")


def test_templates_that_deny_hold_no_seg():
    with pytest.raises(ValueError, match="denies that there is anything"):
        Templates(questions=["{expression}"], absent=["no [SEG]"])
    drawn = [
        named_templates(name="generalized").draw(
            "the cat", np.random.default_rng(seed), present=False
        )
        for seed in range(20)
    ]
    assert all("the cat" in question for question, _ in drawn)
    assert len({answer for _, answer in drawn}) > 3 and not any(SEG in a for _, a in drawn)


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("image", "video clip frame"),
        ("generalized", "video clip frame"),
        ("video", "image pic photo"),
    ],
)
def test_what_is_said_of_a_video_is_not_said_of_a_picture(name, foreign):
    templates = named_templates(name=name)
    said = " ".join([*templates.questions, *templates.answers, *templates.absent]).lower()
    assert not [word for word in foreign.split() if word in said]
