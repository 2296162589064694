"""Questions about regions: asked as in training, answered as alone, refused where they are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.llava_sam2.datasets.pixels import DynamicTiles
from projects.llava_sam2.datasets.regions import RegionDataset, RegionRow
from projects.llava_sam2.datasets.rows import Row, StillMask
from projects.llava_sam2.predictor import GroundedPredictor
from projects.llava_sam2.region import Region
from projects.sam2_video.modeling import TrackingPolicy
from projects.sam2_video.predictor import ObjectPrompt, VideoPredictor
from tests.llava_sam2.datasets.tiny import HEIGHT, LEFT, RIGHT, WIDTH, rle, save_jpeg
from tests.llava_sam2.evaluation.tiny_model import toy_model


@pytest.fixture
def asked(tmp_path):
    """Model and inputs with tiles and a thumbnail of 4 x 4 tokens; a predictor."""
    model, inputs = toy_model(tmp_path / "tokenizer", image_size=64)
    inputs.tiles = DynamicTiles(size=64, max_tiles=3)
    return GroundedPredictor(model=model, inputs=inputs, max_new_tokens=6)


@pytest.fixture
def row(tmp_path):
    save_jpeg(tmp_path / "a.jpg", 3)
    objects = tuple(StillMask(rle(mask), HEIGHT, WIDTH, where="test") for mask in (LEFT, RIGHT))
    return Row("still", tmp_path / "a.jpg", None, (HEIGHT, WIDTH), objects, ())


def seen_by_the_layers(mllm, call):
    """What goes into the decoder layers, one entry a pass, and what ``call`` returns."""
    seen = []
    hook = mllm.language_model.register_forward_pre_hook(
        lambda module, args, given: seen.append(given), with_kwargs=True
    )
    result = call()
    hook.remove()
    return seen, result


@torch.no_grad()
def test_a_region_is_asked_as_it_was_trained(asked, row):
    turn = ("describe region2 .", "circle")
    sample = RegionDataset(rows=[RegionRow(row, (turn,))], inputs=asked.inputs)[0]
    mllm, image, regions = asked.model.mllm, row[0], [[LEFT, RIGHT]]
    mask = torch.ones(1, len(sample.input_ids), dtype=torch.bool)
    ([trained], _) = seen_by_the_layers(
        mllm,
        lambda: mllm(sample.input_ids[None], mask, sample.pixel_values, regions=[sample.regions]),
    )
    assert len(sample.pixel_values) == 3  # two tiles and the thumbnail on which regions lie
    ([told], _) = seen_by_the_layers(
        mllm, lambda: asked.image(image, [turn[0]], forced=[turn[1]], regions=regions)
    )
    assert torch.equal(told["inputs_embeds"], trained["inputs_embeds"])
    free, _ = seen_by_the_layers(mllm, lambda: asked.image(image, [turn[0]], regions=regions))
    answered = int((sample.labels != -100).nonzero()[0])
    assert torch.equal(free[0]["inputs_embeds"], trained["inputs_embeds"][:, :answered])
    assert len(free) <= 7  # one pass for the prompt, and one a token; none again for a [SEG]
    assert all(given["inputs_embeds"].shape[1] == 1 for given in free[1:])
    other, _ = seen_by_the_layers(
        mllm, lambda: asked.image(image, [turn[0]], regions=[[RIGHT, LEFT]])
    )
    assert not torch.equal(other[0]["inputs_embeds"], free[0]["inputs_embeds"])


@torch.no_grad()
def test_answers_of_a_batch_are_those_of_each_alone(asked, row):
    """Prompts of different lengths, with regions or without; words, states at [SEG] and masks."""
    mllm, image = asked.model.mllm, row[0]
    words = mllm.model.lm_head.weight  # of a random model that says much and points often
    words.normal_(generator=torch.Generator().manual_seed(0))
    words[mllm.seg_id] *= 1.6
    words[mllm.image_id] = 0  # a picture would have to follow
    for layer in mllm.language_model.layers:
        layer.self_attn.o_proj.weight *= 6  # and looks far back
    questions = ["what is <region> ?", "segment the big dog .", "is <region> it , or <region> ?"]
    regions = [[Region(box=(2, 4, 20, 16))], [], [LEFT, RIGHT]]
    hidden = []
    project = asked.model.heads["segment"].project
    asked.model.heads["segment"].project = lambda states: hidden.append(states) or project(states)
    for sampled in (False, True):
        asked.replies.temperature = 2.0 if sampled else 0.0
        together = asked.image(image, questions, regions=regions)
        found = hidden.pop()
        assert len(found) > 1 and not torch.allclose(found[0], found[-1], atol=1e-2)
        for number, answer in enumerate(together):
            asked.replies.seed = number  # of the question's place, where there are several
            [alone] = asked.image(image, [questions[number]], regions=[regions[number]])
            states = hidden.pop() if alone.masks else found[:0]
            assert alone.text == answer.text and len(alone.masks) == len(answer.masks)
            torch.testing.assert_close(found[: len(states)], states, rtol=1e-4, atol=1e-5)
            found = found[len(states) :]
            for k in range(len(answer.masks)):
                np.testing.assert_array_equal(alone.decoded(k), answer.decoded(k))
        asked.replies.seed = 0
        assert [a.text for a in asked.image(image, questions, regions=regions)] == [
            a.text for a in together
        ]
        hidden.clear()


@pytest.mark.parametrize("kept", [False, True])
def test_boxes_and_clicks_become_what_sam_2_sees_there(tmp_path, kept):
    decoder = "original" if kept else "tuned"
    model, inputs = toy_model(tmp_path / "tokenizer", propagation_decoder=decoder)
    # of the size that SAM 2 takes: how frames are resized differs between the two
    image = np.random.default_rng(4).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    mask = image[..., 0] > 128
    expected = sam2_alone(model.grounding, image)
    if kept:  # a decoder that was tuned for words does not answer clicks
        for parameter in model.grounding.blocks.mask_decoder.parameters():
            parameter.data *= 1.2
    clicked = Region(points=[(24, 45), (75, 15)], labels=[1, 0])
    given = [[Region(box=(6, 20, 60, 80)), mask], [clicked]]
    box_and_mask, clicks = GroundedPredictor(model=model, inputs=inputs).regions(
        image, ["what is <region> or <region> ?", "it ?"], given
    )
    assert 0.02 < expected.mean() < 0.98
    np.testing.assert_array_equal(np.stack([box_and_mask[0], clicks[0]]), expected)
    np.testing.assert_array_equal(box_and_mask[1], mask)


def sam2_alone(grounding, image):
    """The same box and clicks by the video predictor, on a video of one frame."""
    prompts = [
        ObjectPrompt(0, 0, box=np.float32([6, 20, 60, 80])),
        ObjectPrompt(1, 0, points=np.float32([[24, 45], [75, 15]]), labels=np.array([1, 0])),
    ]
    policy = TrackingPolicy(hide_absent=False)
    tracked = VideoPredictor(grounding, policy=policy).propagate([image], prompts)
    return dict(tracked)[0]


@pytest.mark.parametrize(
    ("question", "regions", "message"),
    [
        ("is <region> it ?", [[LEFT, RIGHT]], "1 <region> in the question .* but 2 regions are"),
        ("is <region> it ?", [[]], "1 <region> in the question .* but 0 regions are given"),
        ("is it ?", [[LEFT], [RIGHT]], "1 questions, but regions of 2"),
        ("is it ?", [[LEFT[:9]]], r"region1: a mask of shape \(9, 32\) on an image of 20 x 32"),
        ("is it ?", [[LEFT, LEFT & False]], "region2: the mask is empty"),
        ("is it ?", [[LEFT, Region(box=(9, 9, 3, 12))]], r"region2: box \(9, 9, 3, 12\)"),
        ("is it ?", [[Region(box=(9, 9, 33, 12))]], "region1: box .* on an image of 32 x 20"),
        ("is it ?", [[Region(box=(9, 9, 12))]], "region1: box"),
        ("is it ?", [[Region(box=(9,))]], "region1: box"),
        ("is it ?", [[Region(points=[(5, 21)])]], r"clicks \[\(5, 21\)\] on an image of 32 x 20"),
        ("is it ?", [[Region(points=[(5, 2)], labels=[1, 0])]], "1 points and 2 labels"),
        ("is it ?", [[Region(points=[])]], "region1: .*give points"),
        ("is it ?", [[Region(points=[5, 2, 7, 9])]], r"clicks \[5, 2, 7, 9\] on an image"),
    ],
)
def test_what_is_no_region_is_refused_before_anything_is_encoded(
    asked, row, question, regions, message
):
    asked.model.mllm.visual_features = None
    with pytest.raises(ValueError, match=f"photo: .*{message}|photo: {message}"):
        asked.image(row[0], [question], regions=regions, name="photo")


@pytest.mark.parametrize("ask", ["image", "video"])
def test_a_question_with_a_place_for_a_region_needs_one(asked, row, ask):
    with pytest.raises(ValueError, match="1 <region> in the question .* but 0 regions are given"):
        getattr(asked, ask)(row[0], ["what is <region> ?"])


def test_a_region_is_one_thing_and_needs_a_tile_of_the_whole_image(asked, row):
    for wrong in ({}, dict(mask=LEFT, box=(0, 0, 2, 2))):
        with pytest.raises(ValueError, match="a region is a mask, or else a box and/or clicks"):
            Region(**wrong)
    asked.inputs.tiles = DynamicTiles(size=64, max_tiles=3, thumbnail=False)
    with pytest.raises(ValueError, match="dynamic tiles need thumbnail=True"):
        asked.image(row[0], ["is it ?"], regions=[[LEFT]])
