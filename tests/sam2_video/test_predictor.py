"""The video predictor: it is the training's forward, object by object, frame by frame."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from projects.common.video import VideoFile, write_mp4
from projects.sam2_video.losses import MultiStepMaskLoss
from projects.sam2_video.modeling.blocks import Sam2
from projects.sam2_video.modeling.tracker import Tracker, TrackingPolicy
from projects.sam2_video.object_prompts import mask_to_input
from projects.sam2_video.postprocess import fill_holes, remove_specks, winners
from projects.sam2_video.predictor import ObjectPrompt, VideoPredictor
from projects.sam2_video.prompting import PromptPlan, PromptSimulator
from projects.sam2_video.toy import toy_sam2
from projects.sam2_video.train_model import TrainingUnroll


class Planned(PromptSimulator):
    def __init__(self, plan):
        super().__init__(num_correction_clicks=0)
        self.fixed = plan

    def plan(self, visible, rng):
        return [self.fixed]


@pytest.fixture(scope="module")
def tracker_model():
    """Random weights whose masks are neither empty nor full, so that equality says something."""
    model = toy_sam2(seed=5)
    with torch.no_grad():
        model.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
    return model.eval()


def as_video(clip):
    return clip.frames.permute(0, 2, 3, 1).contiguous().numpy()


def mask_prompts(clip, frame=0):
    return [
        ObjectPrompt(key, frame, mask=clip.masks[frame, row].numpy())
        for row, key in enumerate(clip.object_ids)
    ]


def run(model, video, prompts, policy=None, **options):
    predictor = VideoPredictor(model, policy=policy or TrackingPolicy())
    return dict(predictor.propagate(video, prompts, **options))


@pytest.mark.parametrize("mask_prompt", [True, False])
def test_it_is_the_training_forward(tracker_model, clip, clip_batch, monkeypatch, mask_prompt):
    batch = clip_batch(frames=4, objects=(3,), seed=2)
    sample = clip(frames=4, objects=3, seed=2)
    plan = PromptPlan(conditioning=(0,), mask_prompts=mask_prompt)
    unroll = TrainingUnroll(simulator=Planned(plan), loss=MultiStepMaskLoss())
    given = []
    original = Tracker.decode
    with monkeypatch.context() as patch:
        patch.setattr(
            Tracker, "decode", lambda self, f, p, **k: given.append(p) or original(self, f, p, **k)
        )
        with torch.no_grad():
            steps = unroll.steps(tracker_model, batch)
    prompts = mask_prompts(sample)
    if not mask_prompt:
        prompts = [
            ObjectPrompt(row, 0, points=given[0].points[row].numpy(), labels=np.array([1]))
            for row in range(3)
        ]
    predicted = run(tracker_model, as_video(sample), prompts)
    assert list(predicted) == [0, 1, 2, 3]
    for step in steps:
        best = step.candidates.iou.argmax(1)
        logits = step.candidates.masks[torch.arange(3), best][:, None]
        trained = F.interpolate(logits, (96, 96), mode="bilinear", align_corners=False)[:, 0] > 0
        assert 0.02 < trained.float().mean() < 0.98
        assert (trained.numpy() == predicted[step.frame]).mean() > 0.9999


def test_a_given_mask_is_the_answer_on_its_frame(tracker_model, clip):
    sample = clip(frames=2, objects=2, seed=1)
    predicted = run(tracker_model, as_video(sample), mask_prompts(sample))
    truth = sample.masks[0].numpy()
    overlap = (predicted[0] & truth).sum((1, 2)) / (predicted[0] | truth).sum((1, 2))
    assert (overlap > 0.85).all()  # up to the resolution of the logits


def test_objects_do_not_see_each_other(tracker_model, clip):
    """Late objects and several kinds of prompts in one call equal one call per object."""
    sample = clip(frames=5, objects=4, seed=3)
    video = as_video(sample)
    prompts = [
        ObjectPrompt(10, 0, mask=sample.masks[0, 0].numpy()),
        ObjectPrompt(11, 2, box=np.array([20.0, 25, 50, 50])),
        ObjectPrompt(12, 0, points=np.array([[30.0, 40]]), labels=np.array([1])),
        ObjectPrompt(13, 0, points=np.array([[9.0, 8], [70, 70]]), labels=np.array([1, 0])),
        ObjectPrompt(12, 3, mask=sample.masks[3, 2].numpy()),
    ]
    together = run(tracker_model, video, prompts)
    assert list(together) == [0, 1, 2, 3, 4]
    assert not together[0][1].any() and not together[1][1].any()  # 11 is not there yet
    for row, key in enumerate((10, 11, 12, 13)):
        alone = run(tracker_model, video, [p for p in prompts if p.object_id == key])
        for frame, masks in alone.items():
            assert (masks[0] == together[frame][row]).mean() > 0.999
    assert together[2][1].any()


def test_backward_is_forward_on_the_reversed_video(tracker_model, clip):
    sample = clip(frames=5, objects=2, seed=6)
    video = as_video(sample)
    back = run(tracker_model, video, mask_prompts(sample, 4), direction="backward")
    assert list(back) == [4, 3, 2, 1, 0]
    mirrored = [
        ObjectPrompt(prompt.object_id, 0, mask=prompt.mask) for prompt in mask_prompts(sample, 4)
    ]
    forth = run(tracker_model, video[::-1], mirrored)
    for frame, masks in back.items():
        assert (masks == forth[4 - frame]).mean() > 0.9999


def test_both_directions_cover_each_frame_once(tracker_model, clip):
    sample = clip(frames=5, objects=1, seed=6)
    video = as_video(sample)
    prompts = mask_prompts(sample, 2)
    predictor = VideoPredictor(tracker_model)
    frames = [frame for frame, _ in predictor.propagate(video, prompts, direction="both")]
    assert frames == [2, 3, 4, 1, 0]
    both = dict(predictor.propagate(video, prompts, direction="both"))
    back = dict(predictor.propagate(video, prompts, direction="backward"))
    assert all(np.array_equal(both[frame], back[frame]) for frame in (1, 0))
    near = [f for f, _ in predictor.propagate(video, prompts, direction="both", max_frames=2)]
    assert near == [2, 3, 1]


class LazyVideo:
    """Notes which frames are read."""

    def __init__(self, length, shape):
        self.length, self.shape, self.read = length, shape, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.read.append(index)
        return np.random.default_rng(index).integers(0, 255, (*self.shape, 3), dtype=np.uint8)


def test_frames_are_read_when_they_are_needed_and_memory_is_bounded(tracker_model, monkeypatch):
    banks = []
    new_memory = Tracker.new_memory

    def noting(self, **options):
        banks.append(new_memory(self, **options))
        return banks[-1]

    monkeypatch.setattr(Tracker, "new_memory", noting)
    video = LazyVideo(40, (48, 64))
    prompt = ObjectPrompt(1, 0, box=np.array([5.0, 5, 30, 30]))
    sizes = []
    for frame, masks in VideoPredictor(tracker_model).propagate(video, [prompt]):
        assert masks.shape == (1, 48, 64) and masks.dtype == bool
        assert max(video.read) <= frame + 1  # one frame is read ahead
        (bank,) = banks
        with_memory = [seen for seen in bank.tracked.values() if seen.memory is not None]
        sizes.append((len(bank.tracked), len(with_memory)))
    assert sizes[-1] == sizes[20] and sizes[-1][0] <= 8 and sizes[-1][1] <= 7


def test_prompts_are_scaled_to_the_input(tracker_model, monkeypatch):
    prompts_seen = []
    step = Tracker.step
    monkeypatch.setattr(
        Tracker,
        "step",
        lambda self, *a, **k: prompts_seen.append(k["prompt"]) or step(self, *a, **k),
    )
    video = np.zeros((1, 48, 192, 3), np.uint8)
    mask = np.zeros((48, 192), bool)
    mask[12:36, 48:144] = True
    prompts = [
        ObjectPrompt(1, 0, points=np.array([[100.0, 24]]), labels=np.array([1])),
        ObjectPrompt(
            2, 0, box=np.array([0, 12, 192, 48]), points=np.array([[2.0, 3]]), labels=np.array([0])
        ),
        ObjectPrompt(3, 0, mask=mask),
    ]
    run(tracker_model, video, prompts)
    (mixed,) = prompts_seen
    (given, of_mask), (pointed, of_points) = mixed.parts
    assert given.tolist() == [2] and pointed.tolist() == [0, 1]
    assert of_points.points[0, 0].tolist() == [50, 48]
    assert of_points.points[1].tolist() == [[0, 24], [96, 96], [1, 6]]
    assert of_points.labels.tolist() == [[1, -1, -1], [2, 3, 0]]
    square = of_mask.mask[0, 0]
    assert square[24:72, 24:72].all() and square.sum() == 48 * 48


def test_the_model_is_left_as_it_was(clip):
    model = toy_sam2(seed=0).train()
    model.blocks.vision_encoder.eval()
    sample = clip(frames=2, objects=1, seed=0)
    for _ in VideoPredictor(model).propagate(as_video(sample), mask_prompts(sample)):
        assert model.training and model.blocks.mask_decoder.training
        assert not model.blocks.vision_encoder.training
        assert torch.is_grad_enabled()


def test_a_part_that_trains_in_a_frozen_model_trains_on(clip):
    model = toy_sam2(seed=0).eval()
    model.blocks.mask_decoder.train()
    sample = clip(frames=2, objects=1, seed=0)
    for _ in VideoPredictor(model).propagate(as_video(sample), mask_prompts(sample)):
        assert not model.training and not model.blocks.vision_encoder.training
        assert model.blocks.mask_decoder.training and model.blocks.mask_decoder.conv_s0.training


def test_masks_of_0_and_255_are_masks():
    mask = np.zeros((60, 100), bool)
    mask[13:31, 22:57] = True
    given = [ObjectPrompt(1, 0, mask=m) for m in (mask, mask.astype(np.uint8) * 255)]
    left, right = (mask_to_input(prompt, mask.shape, 96, torch.device("cpu")) for prompt in given)
    assert torch.equal(left, right) and left.any()


def test_mistakes_are_named(tracker_model):
    video = np.zeros((3, 32, 32, 3), np.uint8)
    predictor = VideoPredictor(tracker_model)
    box = np.array([1, 1, 9, 9])
    with pytest.raises(ValueError, match="at least one prompt"):
        predictor.propagate(video, [])
    with pytest.raises(ValueError, match="object 4 on frame 3: the video has 3 frames"):
        predictor.propagate(video, [ObjectPrompt(4, 3, box=box)])
    with pytest.raises(ValueError, match="two prompts of object 4 on frame 1"):
        predictor.propagate(video, [ObjectPrompt(4, 1, box=box), ObjectPrompt(4, 1, box=box)])
    with pytest.raises(ValueError, match="direction"):
        predictor.propagate(video, [ObjectPrompt(4, 1, box=box)], direction="sideways")
    with pytest.raises(ValueError, match=r"mask of object 2 .* \(9, 9\), the frame \(32, 32\)"):
        prompt = ObjectPrompt(2, 0, mask=np.ones((9, 9), bool))
        next(predictor.propagate(video, [prompt]))
    with pytest.raises(ValueError, match="give points, a box or a mask"):
        ObjectPrompt(1, 0)
    with pytest.raises(ValueError, match="give points, a box or a mask"):
        ObjectPrompt(1, 0, points=np.zeros((0, 2)), labels=np.zeros(0))
    with pytest.raises(ValueError, match="not both"):
        ObjectPrompt(1, 0, box=box, mask=np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="2 points and 1 labels"):
        ObjectPrompt(1, 0, points=np.zeros((2, 2)), labels=np.array([1]))
    with pytest.raises(ValueError, match="no propagation decoder"):
        VideoPredictor(tracker_model, decoder="propagation")


def test_corrections_that_correct_nothing_are_refused(tracker_model):
    video = np.zeros((6, 32, 32, 3), np.uint8)
    predictor = VideoPredictor(tracker_model)
    box = np.array([1, 1, 9, 9])
    click = dict(points=np.array([[4.0, 4]]), labels=np.array([1]), correction=True)
    with pytest.raises(ValueError, match="object 2 on frame 3: there is no tracked mask"):
        predictor.propagate(video, [ObjectPrompt(1, 0, box=box), ObjectPrompt(2, 3, **click)])
    late = [ObjectPrompt(1, 0, box=box), ObjectPrompt(2, 3, box=box), ObjectPrompt(2, 1, **click)]
    with pytest.raises(ValueError, match="object 2 on frame 1: the object is not tracked there"):
        predictor.propagate(video, late)
    VideoPredictor(tracker_model, before_prompt="tracked").propagate(video, late)
    with pytest.raises(ValueError, match="prompted on 0"):
        far = [ObjectPrompt(1, 0, box=box), ObjectPrompt(1, 4, **click)]
        predictor.propagate(video, far, max_frames=3)
    with pytest.raises(ValueError, match="two prompts of object 1 on frame 0"):
        predictor.propagate(video, [ObjectPrompt(1, 0, box=box), ObjectPrompt(1, 0, **click)])


def test_a_correction_reaches_later_frames_only(tracker_model, clip):
    sample = clip(frames=6, objects=2, seed=4)
    prompts = mask_prompts(sample)
    click = dict(points=np.array([[10.0, 80]]), labels=np.array([1]), correction=True)
    plain = run(tracker_model, as_video(sample), prompts)
    corrected = run(tracker_model, as_video(sample), [*prompts, ObjectPrompt(0, 3, **click)])
    for frame in range(6):
        assert (plain[frame][1] == corrected[frame][1]).mean() > 0.999  # the other object
        if frame < 3:
            assert (plain[frame][0] == corrected[frame][0]).mean() > 0.999
    assert (plain[3][0] != corrected[3][0]).any()


def test_options_are_checked_and_said(tracker_model):
    for wrong in (
        dict(resize="nearest"),
        dict(before_prompt="maybe"),
        dict(corrected_frames="all"),
        dict(precision="fp16"),
        dict(fill_hole_area=-1),
        dict(object_chunk=0),
        dict(object_chunk=2, policy=TrackingPolicy(non_overlapping=True)),
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VideoPredictor(tracker_model, **wrong)
    said = VideoPredictor(tracker_model, fill_hole_area=8, resize="meta").settings()
    assert said["fill_hole_area"] == 8 and said["resize"] == "meta"
    assert said["remove_area"] == 0 and said["non_overlapping"] is False


def test_frames_of_two_sizes_are_refused(tracker_model):
    video = [np.zeros((32, 32, 3), np.uint8), np.zeros((32, 40, 3), np.uint8)]
    prompt = ObjectPrompt(1, 0, box=np.array([1, 1, 9, 9]))
    with pytest.raises(ValueError, match="frame 1 is 32 x 40 .* 32 x 32"):
        list(VideoPredictor(tracker_model).propagate(video, [prompt]))


def test_each_frame_is_encoded_once(tracker_model, monkeypatch):
    """Also where some objects are prompted on a frame over which others are tracked."""
    encoded = []
    encode = Sam2.encode_frames
    monkeypatch.setattr(
        Sam2, "encode_frames", lambda self, x, **k: encoded.append(len(x)) or encode(self, x, **k)
    )
    video = np.random.default_rng(0).integers(0, 255, (6, 40, 40, 3), dtype=np.uint8)
    box = np.array([5.0, 5, 30, 30])
    prompts = [
        ObjectPrompt(1, 0, box=box),
        ObjectPrompt(2, 2, box=box),
        ObjectPrompt(3, 4, box=box),
    ]
    run(tracker_model, video, prompts)
    assert sum(encoded) == 6


def test_what_goes_wrong_while_reading_ahead_is_raised(tracker_model):
    class Broken(LazyVideo):
        def __getitem__(self, index):
            if index == 2:
                raise ValueError("frame 2 does not decode")
            return super().__getitem__(index)

    prompt = ObjectPrompt(1, 0, box=np.array([1, 1, 9, 9]))
    seen = []
    with pytest.raises(ValueError, match="frame 2 does not decode"):
        for frame, _ in VideoPredictor(tracker_model).propagate(Broken(5, (32, 32)), [prompt]):
            seen.append(frame)
    assert seen == [0, 1]


def test_an_mp4_is_read_frame_by_frame(tracker_model, tmp_path, monkeypatch):
    frames = [LazyVideo(6, (64, 64))[frame] for frame in range(6)]
    write_mp4(tmp_path / "video.mp4", frames, fps=6)
    video = VideoFile(tmp_path / "video.mp4")
    decoded = video.read(range(6))
    most = []
    read = VideoFile.read
    monkeypatch.setattr(VideoFile, "read", lambda self, i: most.append(len(i)) or read(self, i))
    prompt = ObjectPrompt(1, 0, box=np.array([1, 1, 9, 9]))
    lazy = run(tracker_model, video, [prompt])
    assert set(most) == {1}
    for frame, masks in run(tracker_model, decoded, [prompt]).items():
        assert np.array_equal(masks, lazy[frame])


def test_leaving_early_leaves_no_thread(tracker_model):
    prompt = ObjectPrompt(1, 0, box=np.array([1, 1, 9, 9]))
    frames = VideoPredictor(tracker_model).propagate(LazyVideo(9, (32, 32)), [prompt])
    next(frames)
    next(frames)
    frames.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


def test_autocast_stays_close(tracker_model, clip):
    sample = clip(frames=3, objects=2, seed=1)
    video, prompts = as_video(sample), mask_prompts(sample)
    exact = dict(VideoPredictor(tracker_model).logits(video, prompts))
    rounded = dict(VideoPredictor(tracker_model, precision="bf16").logits(video, prompts))
    difference = (exact[2] - rounded[2]).abs()
    assert 0 < difference.mean() < 0.1 * exact[2].abs().mean()


# ---- postprocessing ---------------------------------------------------------------------------


def drawn(*rows: str) -> torch.Tensor:
    return torch.tensor([[1.0 if cell == "#" else -1.0 for cell in row] for row in rows])[
        None, None
    ]


def test_small_holes_are_filled():
    logits = drawn(
        "########",
        "#.####.#",
        "##.###.#",
        "######.#",
        "########",
        "....####",
    )
    filled = fill_holes(logits, 2)
    changed = (filled != logits)[0, 0].nonzero().tolist()
    assert changed == [[1, 1], [2, 2]]  # joined by a corner; the others have 3 and 4 pixels
    assert filled[0, 0, 1, 1] == pytest.approx(0.1)
    assert (fill_holes(logits, 4) > 0).all()
    assert fill_holes(logits, 1) is logits
    zero = torch.where(logits > 0, logits, 0.0)  # background is at or below 0
    assert torch.equal(fill_holes(zero, 2) > 0, filled > 0)


def test_small_specks_are_removed():
    logits = torch.cat([drawn("#..#", "....", "...#"), drawn("##..", "...#", "..#.")])
    kept = remove_specks(logits, 1) > 0
    assert not kept[0].any() and torch.equal(kept[1], logits[1] > 0)
    assert not (remove_specks(logits, 2) > 0).any()


def test_a_pixel_has_one_winner():
    logits = torch.tensor([[[2.0, -1, 3, 0]], [[2.0, -2, 4, -1]]])
    assert winners(logits).tolist() == [
        [[True, False, False, False]],
        [[False, False, True, False]],
    ]
