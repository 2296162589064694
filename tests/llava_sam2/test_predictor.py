"""The predictor does what training does, and tracks what lies between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from projects.llava_sam2.datasets.frame_samplers import ContiguousFrames, UniformFrames
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.rows import Expression, RleTrack, Row
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.predictor import GroundedPredictor
from projects.llava_sam2.structures import collate_grounding
from projects.sam2_video.modeling import Prompt, Tracker, TrackingPolicy
from tests.llava_sam2.datasets.tiny import HEIGHT, WIDTH, block, rle, save_jpeg
from tests.llava_sam2.evaluation.tiny_model import Script, toy_model

TEMPLATES = Templates(questions=["segment {expression} ."], answers=["sure it is [SEG] ."])
QUESTIONS = ["segment red square .", "segment big dog ."]
FORCED = ["sure it is [SEG] .", "sure it is [SEG] ."]


@pytest.fixture
def video(tmp_path):
    for number in range(5):
        save_jpeg(tmp_path / "clip" / f"{number}.jpg", number)
    track = RleTrack([rle(block(2, 2 + n, 9, 12 + n)) for n in range(5)], where="test")
    frames = tuple(f"{number}.jpg" for number in range(5))
    expressions = (Expression("red square", (0,), "0"),)
    return Row("clip", tmp_path / "clip", frames, None, (track,), expressions)


def at_frame_size(masks: torch.Tensor) -> np.ndarray:
    for size in ((96, 96), (HEIGHT, WIDTH)):  # SAM 2's input, then the frame
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
    return (masks > 0).numpy()


def training_masks(model, inputs, row, frames):
    """Mask logits [R, 4h, 4w] of the training forward."""
    data = GroundingDataset(
        rows=[row], inputs=inputs, templates=TEMPLATES, mask_size=48, frames=frames
    )
    seen = []
    head = model.heads["segment"]
    losses = head.mask_losses
    head.mask_losses = lambda masks, *rest: seen.append(masks) or losses(masks, *rest)
    model.train().loss(collate_grounding([data[0]]))
    del head.mask_losses
    model.eval()
    return seen[0].detach()


@pytest.mark.parametrize("absent", [False, True])
def test_prompted_frames_are_what_training_computed(tmp_path, video, absent):
    model, inputs = toy_model(tmp_path / "tokenizer")
    if absent:  # training does not ask the object score, so prompted frames must not either
        model.grounding.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(-9)
    frames = UniformFrames(num=3)
    expected = at_frame_size(training_masks(model, inputs, video, frames)[:, None])[:, 0]
    assert 0.02 < expected.mean() < 0.98
    predictor = GroundedPredictor(model=model, inputs=inputs, frames=frames)
    (answer,) = predictor.video(video, QUESTIONS[:1], forced=FORCED[:1])
    masks = answer.decoded()
    assert masks.shape == (5, HEIGHT, WIDTH)
    np.testing.assert_array_equal(masks[[0, 2, 4]], expected)


def test_an_image_is_what_training_computed(tmp_path, video):
    model, inputs = toy_model(tmp_path / "tokenizer")
    still = Row("i", video.source / "3.jpg", None, None, video.objects, video.expressions)
    expected = at_frame_size(training_masks(model, inputs, still, None)[:, None])[:, 0]
    assert 0.02 < expected.mean() < 0.98
    predictor = GroundedPredictor(model=model, inputs=inputs)
    (answer,) = predictor.image(still[0], QUESTIONS[:1], forced=FORCED[:1])
    np.testing.assert_array_equal(answer.decoded(), expected)


def test_a_written_answer_gives_the_mask_of_a_forced_one(tmp_path, video):
    model, inputs = toy_model(tmp_path / "tokenizer")
    predictor = GroundedPredictor(model=model, inputs=inputs, frames=UniformFrames(num=2))
    forced = predictor.video(video, QUESTIONS, forced=FORCED)
    Script(model, "sure it is [SEG] .", "sure it is .")
    first, second = predictor.video(video, QUESTIONS)
    assert (first.text, second.text) == ("sure it is [SEG] .", "sure it is .")
    np.testing.assert_array_equal(first.decoded(), forced[0].decoded())
    assert second.masks == []  # nothing was pointed at, and nothing is made up
    Script(model, "sure it is", "dog")
    assert [answer.masks for answer in predictor.image(video[0], QUESTIONS)] == [[], []]


def test_several_masks_in_one_answer_keep_their_order(tmp_path, video):
    model, inputs = toy_model(tmp_path / "tokenizer")
    predictor = GroundedPredictor(model=model, inputs=inputs)
    Script(model, "sure [SEG] and red [SEG]", "it is [SEG]")
    two, one = predictor.image(video[0], QUESTIONS)
    assert (len(two.masks), len(one.masks)) == (2, 1)
    Script(model, "it is [SEG]")
    (alone,) = predictor.image(video[0], QUESTIONS[1:])
    np.testing.assert_array_equal(alone.decoded(), one.decoded())
    Script(model, "sure [SEG] and red [SEG]")
    (pair,) = predictor.image(video[0], QUESTIONS[:1])
    for segment in (0, 1):
        np.testing.assert_array_equal(pair.decoded(segment), two.decoded(segment))


def test_questions_do_not_disturb_one_another(tmp_path, video):
    model, inputs = toy_model(tmp_path / "tokenizer")
    settings = dict(model=model, inputs=inputs, frames=UniformFrames(num=2))
    together = GroundedPredictor(**settings).video(video, QUESTIONS, forced=FORCED)
    split = GroundedPredictor(**settings, batch_size=1).video(video, QUESTIONS, forced=FORCED)
    for number in (0, 1):
        np.testing.assert_array_equal(together[number].decoded(), split[number].decoded())
        (alone,) = GroundedPredictor(**settings).video(
            video, QUESTIONS[number : number + 1], forced=FORCED[:1]
        )
        np.testing.assert_array_equal(alone.decoded(), together[number].decoded())


@pytest.mark.parametrize("decoder", ["original", "tuned"])
def test_other_frames_are_tracked_both_ways(tmp_path, video, decoder):
    model, inputs = toy_model(tmp_path / "tokenizer", propagation_decoder="original")
    with torch.no_grad():  # tuning moves the decoder away from the kept one
        for parameter in model.grounding.blocks.mask_decoder.parameters():
            parameter.mul_(1.2)
    predictor = GroundedPredictor(
        model=model,
        inputs=inputs,
        frames=lambda count, generator: [1, 3],
        propagation_decoder=decoder,
    )
    (answer,) = predictor.video(video, QUESTIONS[:1], forced=FORCED[:1])
    np.testing.assert_array_equal(answer.decoded(), reference(predictor, video, decoder))


@torch.no_grad()
def reference(predictor, video, decoder):
    """Frames 1 and 3 from language, 2 and 4 forwards in time, 0 backwards, step by step."""
    model, inputs = predictor.model, predictor.inputs
    sam = model.grounding
    frames = sam.encode_frames(inputs.grounding_frames(video.read(range(5))))
    turn = (QUESTIONS[0], FORCED[0])
    ids = inputs.conversation([turn], tiles=2, video=True, name="x").input_ids[None]
    pixels = inputs.pixel_values(video.read([1, 3]), video=True)
    hidden = model.mllm(ids, torch.ones_like(ids, dtype=torch.bool), pixels)
    token = model.heads["segment"].project(hidden[ids == model.mllm.seg_id])
    masks = {}

    def row(index):
        return frames.rows(torch.tensor([index]))

    def prompted_memory():
        tuned = Tracker(sam, policy=TrackingPolicy(hide_absent=False))
        memory = tracker.new_memory(num_frames=5)
        for index in (1, 3):
            bank = memory if kept is None else tuned.new_memory()
            prompt = Prompt(tokens=token[:, None])
            step = tuned.step(
                row(index), index, bank, prompt=prompt, use_memory=False, multimask=False
            )
            masks[index] = step.masks
            if kept is not None:  # knows nothing of the tuned decoder but the masks
                prompt = Prompt(mask=sam.full_size(step.masks) > 0)
                tracker.step(row(index), index, memory, prompt=prompt, decoder=kept)
        return memory

    kept = sam.propagation_decoder if decoder == "original" else None
    policy = TrackingPolicy() if kept is None else TrackingPolicy.meta_predictor()
    tracker = Tracker(sam, policy=policy)
    for order, reverse in (((2, 4), False), ((0,), True)):
        memory = prompted_memory()
        for index in order:
            step = tracker.step(row(index), index, memory, reverse=reverse, decoder=kept)
            masks[index] = step.masks
    assert any((masks[index] > 0).any() for index in (0, 2, 4))
    return at_frame_size(torch.cat([masks[index] for index in range(5)]))[:, 0]


@pytest.mark.parametrize("policy, seen", [(None, False), (TrackingPolicy(hide_absent=False), True)])
def test_frames_between_are_tracked_by_the_models_policy(tmp_path, video, policy, seen):
    model, inputs = toy_model(tmp_path / "tokenizer")
    model.grounding.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(-9)
    model.inference_policy = policy
    predictor = GroundedPredictor(model=model, inputs=inputs, frames=UniformFrames(num=2))
    (answer,) = predictor.video(video, QUESTIONS[:1], forced=FORCED[:1])
    assert [bool(mask.any()) for mask in answer.decoded()] == [True, seen, seen, seen, True]


def test_without_visual_tokens_the_picture_is_not_seen_by_the_language_model(tmp_path, video):
    model, inputs = toy_model(tmp_path / "tokenizer")
    other = np.flip(video[1], 0)
    seen = []
    head = model.heads["segment"]
    project = head.project
    head.project = lambda hidden: seen.append(hidden) or project(hidden)
    for use_visual in (True, False):
        predictor = GroundedPredictor(model=model, inputs=inputs, use_visual=use_visual)
        for image in (video[0], other):
            predictor.image(image, QUESTIONS[:1], forced=FORCED[:1])
    assert not torch.allclose(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert model.mllm.use_visual is True


def test_wrong_calls(tmp_path, video):
    model, inputs = toy_model(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="keeps no original decoder"):
        GroundedPredictor(model=model, inputs=inputs, propagation_decoder="original")
    with pytest.raises(ValueError, match="'original' or 'tuned'"):
        GroundedPredictor(model=model, inputs=inputs, propagation_decoder="newest")


def test_memory_does_not_grow_with_the_video(tmp_path, video):
    """No more than the frames that can still be read are remembered, however long the video."""
    model, inputs = toy_model(tmp_path / "tokenizer")
    long = Row("long", video.source, video.frames * 8, None, (), ())
    predictor = GroundedPredictor(model=model, inputs=inputs, frames=ContiguousFrames(num=1))
    banks = []
    new_memory = predictor.tracker.new_memory
    predictor.tracker.new_memory = lambda **kw: banks.append(new_memory(**kw)) or banks[-1]
    (answer,) = predictor.video(long, QUESTIONS[:1], forced=FORCED[:1])
    assert len(answer.masks[0]) == 40
    (bank,) = banks
    reach = max(model.grounding.num_maskmem, bank.span)
    assert len(bank.conditioning) == 1 and len(bank.tracked) <= reach
