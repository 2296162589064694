"""Samplers, transforms, clips and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from projects.common.reading import Mixture
from projects.common.samplers import Draw
from projects.sam2_video.data.clip import Clip, collate_clips
from projects.sam2_video.data.dataset import ClipDataset, PlainDraw
from projects.sam2_video.data.samplers import EverythingSampler, UniformSampler
from projects.sam2_video.data.transforms import (
    ColorJitter,
    HorizontalFlip,
    RandomAffine,
    RandomGrayscale,
    ResizeSquare,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)


class CountingVideo:
    """Twelve frames; the pixel value is the frame number; object 7 is gone from frame 6 on."""

    name = "counting"
    num_frames = 12

    def __init__(self):
        self.masks_read = []

    def read_frames(self, indices):
        return np.stack([np.full((20, 30, 3), index, np.uint8) for index in indices])

    def visible_objects(self, index):
        return sorted(key for key, mask in self.masks(index).items() if mask.any())

    def read_masks(self, index, objects=None):
        self.masks_read.append((index, list(objects)))
        return {key: mask for key, mask in self.masks(index).items() if key in objects}

    def masks(self, index):
        masks = {3: np.zeros((20, 30), bool), 5: np.zeros((20, 30), bool)}
        masks[3][2:6, index : index + 4] = True
        masks[5][10:14, 20:25] = True
        if index < 6:
            masks[7] = np.zeros((20, 30), bool)
            masks[7][15:18, 3:9] = True
        return masks


class OneVideo:
    def __init__(self, video):
        self.video = video

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.video


def dataset(sampler, transforms=(), video=None):
    return ClipDataset(
        source=OneVideo(video or CountingVideo()), sampler=sampler, transforms=transforms
    )


class LateVideo(CountingVideo):
    """Object 1 is on frames 0 to 3, object 2 on frames 4 to 7."""

    name = "late"
    num_frames = 8

    def masks(self, index):
        mask = np.zeros((20, 30), bool)
        mask[5:9, 10:14] = True
        return {1 if index < 4 else 2: mask}


def test_uniform_sampler_reaches_every_start():
    sampler = UniformSampler(num_frames=3, max_objects=2, stride=2)
    rng = np.random.default_rng(0)
    drawn = [sampler.frames(12, rng) for _ in range(300)]
    assert {tuple(frames) for frames in drawn} == {(s, s + 2, s + 4) for s in range(8)}
    assert sampler.min_frames == 5 and sampler.frames(5, rng) == [0, 2, 4]


def test_time_is_reversed_by_its_probability():
    sampler = UniformSampler(num_frames=2, max_objects=1, reverse_time_prob=0.25)
    rng = np.random.default_rng(0)
    back = [frames[0] > frames[1] for frames in (sampler.frames(9, rng) for _ in range(2000))]
    assert np.mean(back) == pytest.approx(0.25, abs=0.03)


def test_objects_are_drawn_without_repetition():
    sampler = UniformSampler(num_frames=1, max_objects=2)
    rng = np.random.default_rng(0)
    drawn = [sampler.objects([3, 5, 7], rng) for _ in range(200)]
    assert all(len(set(objects)) == 2 for objects in drawn)
    assert {key for objects in drawn for key in objects} == {3, 5, 7}
    assert sorted(sampler.objects([4], rng)) == [4]


def test_late_objects_are_those_of_any_frame():
    first = UniformSampler(num_frames=4, max_objects=3)
    late = UniformSampler(num_frames=4, max_objects=3, late_objects=True)
    found = {False: set(), True: set()}
    for sampler in (first, late):
        data = dataset(sampler, video=LateVideo())
        for seed in range(40):
            clip = data[PlainDraw(0, seed)]
            start = int(clip.frames[0, 0, 0, 0])
            found[sampler.late_objects].add((start, tuple(sorted(clip.object_ids))))
            shown = clip.masks.flatten(2).any(2)
            for row, key in enumerate(clip.object_ids):
                expected = [(key == 1) == (start + step < 4) for step in range(4)]
                assert shown[:, row].tolist() == expected
    assert found[False] == {(s, (1,)) for s in range(4)} | {(4, (2,))}
    assert found[True] == {(0, (1,)), (4, (2,))} | {(s, (1, 2)) for s in (1, 2, 3)}


def test_a_late_object_that_a_transform_loses_is_dropped():
    def lose_the_second_half(clip, rng):
        clip.masks[2:] = False
        return clip

    sampler = UniformSampler(num_frames=8, max_objects=3, late_objects=True)
    clip = dataset(sampler, [lose_the_second_half], video=LateVideo())[0]
    assert clip.object_ids == [1]


def test_short_videos_are_an_error_or_held():
    with pytest.raises(ValueError, match="12 annotated frames, .*repeat_short=True"):
        dataset(UniformSampler(num_frames=30, max_objects=1, stride=2))[0]
    rng = np.random.default_rng(0)
    sampler = UniformSampler(num_frames=5, max_objects=1, stride=4, repeat_short=True)
    assert sampler.frames(17, rng) == [0, 4, 8, 12, 16]
    assert sampler.frames(9, rng) == [0, 2, 4, 6, 8]  # closer together first
    assert sampler.frames(3, rng) == [0, 1, 2, 2, 2]  # then held
    assert sampler.frames(1, rng) == [0] * 5
    clip = dataset(UniformSampler(num_frames=14, max_objects=1, repeat_short=True))[0]
    assert clip.frames[:, 0, 0, 0].tolist() == [*range(12), 11, 11]


class SomeBroken:
    """Eight videos, the even ones broken."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index % 2 == 0:
            raise ValueError(f"video{index}.json: broken RLE")
        video = CountingVideo()
        video.name = f"video{index}"
        return video


def test_bad_samples_are_replaced_alike_and_counted():
    """The mechanism is common.reading's; here that broken clips go through it, names and all."""
    clips = ClipDataset(source=SomeBroken(), sampler=UniformSampler(num_frames=2, max_objects=1))
    with pytest.raises(ValueError, match="video4.json: broken RLE"):
        clips[PlainDraw(4, 9)]
    data = Mixture([clips], names=["sav"], groups=["track"], on_read_error="skip")
    found = [data[Draw(0, 4, seed)] for seed in range(30)]
    assert [clip.name for clip in found] == [data[Draw(0, 4, s)].name for s in range(30)]
    assert {clip.name for clip in found} == {f"video{i}" for i in (1, 3, 5, 7)}
    for seed, clip in enumerate(found):
        assert clip.seed == seed and "video4.json: broken RLE" in clip.events[0].message
    batch = collate_clips(found[:4])
    assert batch.events == [event for clip in found[:4] for event in clip.events]
    assert batch.to("meta").events == batch.events


def test_a_clip_holds_the_frames_and_masks_of_its_video():
    data = dataset(UniformSampler(num_frames=3, max_objects=3, stride=2))
    video = CountingVideo()
    for seed in range(30):
        clip = data[PlainDraw(0, seed)]
        times = clip.frames[:, 0, 0, 0].tolist()
        assert times == [times[0], times[0] + 2, times[0] + 4]
        assert (7 in clip.object_ids) == (times[0] < 6)  # only what the first frame shows
        for step, time in enumerate(times):
            truth = video.masks(time)
            for row, key in enumerate(clip.object_ids):
                expected = truth.get(key, np.zeros((20, 30), bool))
                assert np.array_equal(clip.masks[step, row].numpy(), expected)


def test_a_clip_is_a_function_of_its_draw():
    data = dataset(
        UniformSampler(num_frames=2, max_objects=2, reverse_time_prob=0.5),
        [RandomAffine(), HorizontalFlip(), ColorJitter(brightness=0.5, per_frame=True)],
    )
    first, again, other = (data[PlainDraw(0, seed)] for seed in (11, 11, 12))
    assert torch.equal(first.frames, again.frames) and torch.equal(first.masks, again.masks)
    assert first.object_ids == again.object_ids and first.seed == 11
    assert not torch.equal(first.frames, other.frames)


def test_only_what_is_sampled_is_decoded():
    video = CountingVideo()
    dataset(UniformSampler(num_frames=2, max_objects=1), video=video)[PlainDraw(0, 1)]
    assert len(video.masks_read) == 2
    (first, objects), (second, others) = video.masks_read
    assert second == first + 1 and objects == others and len(objects) == 1


def test_a_video_too_short_is_named():
    with pytest.raises(ValueError, match="counting: 12 annotated frames, but a clip wants 13"):
        dataset(UniformSampler(num_frames=7, max_objects=1, stride=2))[0]


def test_a_video_without_objects_is_named():
    class Empty(CountingVideo):
        def masks(self, index):
            return {1: np.zeros((20, 30), bool)}

    with pytest.raises(ValueError, match="counting: no object is visible"):
        dataset(UniformSampler(num_frames=2, max_objects=1), video=Empty())[0]


def test_frames_and_masks_of_unlike_size_are_named():
    class Unlike(CountingVideo):
        def read_frames(self, indices):
            return super().read_frames(indices)[:, :, :-2]

    with pytest.raises(ValueError, match=r"counting: frames are .*28.* and masks .*30"):
        dataset(UniformSampler(num_frames=2, max_objects=1), video=Unlike())[0]


def test_an_object_that_shrinks_away_is_dropped():
    class Speck(CountingVideo):
        def masks(self, index):
            masks = {1: np.zeros((20, 30), bool), 2: np.zeros((20, 30), bool)}
            masks[1][0, 0] = True
            masks[2][5:15, 5:15] = True
            return masks

    data = dataset(
        UniformSampler(num_frames=1, max_objects=2), [ResizeSquare(size=4)], video=Speck()
    )
    clip = data[0]
    assert clip.object_ids == [2] and clip.masks.shape == (1, 1, 4, 4)


def test_everything_sampler_takes_everything():
    clip = dataset(EverythingSampler())[0]
    assert clip.frames.shape[0] == 12 and clip.object_ids == [3, 5, 7]


# ---- transforms --------------------------------------------------------------------------------


def marked_clip(height=40, width=60):
    """Frames whose red channel shows the mask, so that both must move alike."""
    masks = torch.zeros(3, 2, height, width, dtype=torch.bool)
    for frame in range(3):
        masks[frame, 0, 8:20, 10 + 3 * frame : 26 + 3 * frame] = True
        masks[frame, 1, 24:36, 30:44] = True
    frames = torch.zeros(3, 3, height, width, dtype=torch.uint8)
    frames[:, 0] = masks.any(1) * 250
    return Clip(frames, masks, [4, 9], "marked")


@pytest.mark.parametrize(
    "transform",
    [
        HorizontalFlip(probability=1.0),
        RandomAffine(degrees=25, shear=20),
        RandomAffine(degrees=0, shear=0, translate=0.1, scale=(0.7, 1.3)),
        ResizeSquare(size=32),
    ],
)
def test_frames_and_masks_move_together(transform):
    for seed in range(5):
        clip = transform(marked_clip(), np.random.default_rng(seed))
        shown = clip.frames[:, 0] > 150
        union = clip.masks.any(1)
        overlap = (shown & union).sum() / (shown | union).sum()
        assert overlap > 0.85
        assert clip.masks.dtype == torch.bool and clip.frames.dtype == torch.uint8


def test_flip_mirrors_and_affine_is_the_same_for_all_frames():
    clip = marked_clip()
    flipped = HorizontalFlip(probability=1.0)(clip, np.random.default_rng(0))
    assert torch.equal(flipped.masks[..., 0], clip.masks[..., -1])
    assert torch.equal(flipped.frames.flip(-1), clip.frames)
    moved = RandomAffine()(clip, np.random.default_rng(1))
    assert torch.equal(moved.masks[0, 1], moved.masks[2, 1])  # it stands still in the clip
    assert not torch.equal(moved.masks[0, 1], clip.masks[0, 1])


def test_shear_is_along_x():
    clip = marked_clip()
    shapes = set()
    for seed in range(8):
        sheared = RandomAffine(degrees=0, shear=20)(clip, np.random.default_rng(seed))
        assert torch.equal(sheared.masks[0, 0].sum(1), clip.masks[0, 0].sum(1))
        shapes.add(tuple(sheared.masks[0, 0].any(0).tolist()))
    assert len(shapes) > 3


def cornered_clip():
    """Object 9 in a corner, which most rotations lose; object 4 in the middle."""
    clip = marked_clip()
    clip.masks[:] = False
    clip.masks[:, 0, 16:24, 26:34] = True
    clip.masks[:, 1, :2, :2] = True
    return clip


def test_affine_that_loses_an_object_is_drawn_again_then_skipped_and_counted():
    clip = cornered_clip()
    moved = skipped = 0
    for seed in range(60):
        changed = RandomAffine(degrees=60, attempts=3)(clip, np.random.default_rng(seed))
        assert changed.masks[0].flatten(1).any(1).all()  # not only one of the two
        if changed.events:
            skipped += 1
            assert torch.equal(changed.masks, clip.masks)
            ((kind, message),) = changed.events
            assert kind == "affine_skipped" and "marked: 3 affines" in message
        else:
            moved += 1
            assert not torch.equal(changed.frames, clip.frames)
    assert moved > 5 and skipped > 5
    assert clip.events == []


def test_affine_judges_a_late_object_by_the_clip():
    clip = cornered_clip()
    clip.masks[:2, 1] = False  # it appears on the third frame
    for seed in range(30):
        changed = RandomAffine(degrees=60)(clip, np.random.default_rng(seed))
        assert changed.masks[:, 1].any() and not changed.masks[:2, 1].any()
    clip.masks[:, 1] = False  # never there: nothing to lose
    assert not RandomAffine(degrees=60)(clip, np.random.default_rng(0)).events


def test_affine_per_frame_moves_each_frame_by_itself():
    clip = marked_clip()
    moved = RandomAffine(per_frame=True)(clip, np.random.default_rng(1))
    assert not torch.equal(moved.masks[0, 1], moved.masks[2, 1])
    for frame in range(3):
        shown, truth = moved.frames[frame, 0] > 150, moved.masks[frame].any(0)
        assert (shown & truth).sum() / (shown | truth).sum() > 0.85


def test_flip_and_grayscale_per_frame():
    clip = marked_clip()
    clip.frames[:, 1] = 90
    seen = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        flipped = HorizontalFlip(probability=0.5, per_frame=True)(clip, rng)
        pattern = []
        for frame in range(3):
            turned = torch.equal(flipped.frames[frame], clip.frames[frame].flip(-1))
            assert torch.equal(
                flipped.masks[frame], clip.masks[frame].flip(-1) if turned else clip.masks[frame]
            )
            pattern.append(turned)
        seen.add(tuple(pattern))
    assert len(seen) == 8
    some = RandomGrayscale(probability=0.5, per_frame=True)
    patterns = set()
    for seed in range(30):
        grey = some(clip, np.random.default_rng(seed)).frames
        patterns.add(tuple(torch.equal(frame[0], frame[1]) for frame in grey))
    assert len(patterns) == 8


def test_resize_takes_the_nearest_mask_and_keeps_sizes_that_fit():
    clip = marked_clip(32, 32)
    assert ResizeSquare(size=32)(clip, np.random.default_rng(0)) is clip
    half = ResizeSquare(size=16)(clip, np.random.default_rng(0))
    assert torch.equal(half.masks, clip.masks[..., 1::2, 1::2])


def test_colour_jitter_is_consistent_or_per_frame():
    clip = marked_clip()
    clip.frames[:] = 120
    whole = ColorJitter(brightness=0.5)(clip, np.random.default_rng(3)).frames
    assert whole.unique().numel() == 1 and whole[0, 0, 0, 0] != 120
    single = ColorJitter(brightness=0.5, per_frame=True)(clip, np.random.default_rng(3)).frames
    assert single[:, 0, 0, 0].unique().numel() == 3
    assert torch.equal(
        ColorJitter(hue=0.2, contrast=0.3)(clip, np.random.default_rng(0)).masks, clip.masks
    )


def test_colour_steps_are_torchvisions_but_for_rounding():
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (3, 24, 32), generator=generator, dtype=torch.uint8)
    pairs = [
        (adjust_brightness, F.adjust_brightness, (0.6, 1.0, 1.4)),
        (adjust_contrast, F.adjust_contrast, (0.6, 1.0, 1.4)),
        (adjust_saturation, F.adjust_saturation, (0.0, 0.6, 1.4)),
        (adjust_hue, F.adjust_hue, (-0.3, 0.0, 0.1)),
    ]
    for ours, theirs, amounts in pairs:
        for amount in amounts:
            mine = ours(frame.float(), amount)
            # theirs cuts fractions off, and rounds the mean grey of uint8 frames down
            assert (mine - theirs(frame, amount)).abs().max() <= 2.01


def test_the_order_of_colour_steps_is_drawn():
    jitter = ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1)
    rng = np.random.default_rng(0)
    orders = {tuple(step.__name__ for step, _ in jitter._draw(rng)) for _ in range(300)}
    assert len(orders) == 24


def test_grayscale_by_its_probability():
    clip = marked_clip()
    clip.frames[:, 1] = 90
    gray = RandomGrayscale(probability=1.0)(clip, np.random.default_rng(0)).frames
    assert torch.equal(gray[:, 0], gray[:, 1]) and torch.equal(gray[:, 1], gray[:, 2])
    drawn = [RandomGrayscale(probability=0.3)(clip, np.random.default_rng(s)) for s in range(300)]
    assert np.mean([c.frames is not clip.frames for c in drawn]) == pytest.approx(0.3, abs=0.08)
    with pytest.raises(ValueError, match="probability"):
        RandomGrayscale(probability=2)


# ---- batches -----------------------------------------------------------------------------------


def test_objects_lie_along_one_axis():
    first, second = marked_clip(), marked_clip()
    second.masks = second.masks[:, :1]
    second.object_ids, second.name, second.seed = [2], "second", 5
    batch = collate_clips([first, second])
    assert batch.frames.shape == (2, 3, 3, 40, 60) and batch.masks.shape == (3, 3, 40, 60)
    assert batch.object_to_video.tolist() == [0, 0, 1] and batch.objects_per_video() == [2, 1]
    assert batch.names == ["marked", "second"] and batch.seeds == [0, 5]
    assert torch.equal(batch.masks[:, 2], second.masks[:, 0])
    moved = batch.to("meta")
    assert moved.masks.device.type == "meta" and moved.names == batch.names


def test_clips_that_do_not_fit_are_refused_with_both():
    short = marked_clip()
    short.frames, short.masks = short.frames[:2], short.masks[:2]
    short.name = "short"
    with pytest.raises(ValueError, match=r"marked is track \(3, .*short is track \(2,"):
        collate_clips([marked_clip(), short])
    other = marked_clip()
    other.task = "click"
    with pytest.raises(ValueError, match="is click"):
        collate_clips([marked_clip(), other])


def test_a_clip_whose_parts_do_not_line_up_is_refused():
    clip = marked_clip()
    with pytest.raises(ValueError, match="clip odd: frames .* and masks"):
        Clip(clip.frames[:2], clip.masks, [4, 9], "odd")
    with pytest.raises(ValueError, match="2 objects and 1 object ids"):
        Clip(clip.frames, clip.masks, [4], "odd")
