"""Our predictor against PyPI's ``SAM2VideoPredictor``, end to end from JPEG files.

Same random weights (objects present), same prompts. Logits are compared, not only masks: masks of
random networks look alike.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from projects.common.video import FrameFolder
from projects.sam2_video.postprocess import winners
from projects.sam2_video.predictor import ObjectPrompt, VideoPredictor
from tests.sam2_video.meta_predictor import add_to_meta, predictor_pair, run_meta, write_clip

SIDE = 128
HEIGHT, WIDTH = 72, 128
LENGTH = 7
TOLERANCE = 1e-3  # of logits up to 50


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pair():
    return predictor_pair(image_size=SIDE)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return write_clip(folder, frames=LENGTH, height=HEIGHT, width=WIDTH)


def mask(row: int, frame: int) -> ObjectPrompt:
    shape = np.zeros((HEIGHT, WIDTH), bool)
    shape[4 + 5 * row : 30 + 4 * row, 10 * row : 30 + 9 * row] = True
    return ObjectPrompt(10 + row, frame, mask=shape)


def click(row: int, frame: int, count: int = 1) -> ObjectPrompt:
    points = np.array([[20.0 + 9 * row, 30], [100, 10 + 5 * row], [64.5, 3.25]])[:count]
    return ObjectPrompt(10 + row, frame, points=points, labels=np.array([1, 0, 1])[:count])


def box(row: int, frame: int, clicked: bool = False) -> ObjectPrompt:
    corners = np.array([5.0 + 8 * row, 6, 60 + 7 * row, 50])
    if not clicked:
        return ObjectPrompt(10 + row, frame, box=corners)
    return replace(click(row, frame, 2), box=corners)


def agree(pair, clip, prompts, *, options=None, meta_options=None, direction="forward"):
    """Compare on all frames that Meta's predictor answers; returns Meta's logits."""
    meta, ours = pair
    theirs = run_meta(meta, clip, prompts, **(meta_options or {}))
    predictor = VideoPredictor(ours, resize="meta", **(options or {}))
    mine = dict(predictor.logits(FrameFolder(clip), prompts, direction=direction))
    assert list(mine) == list(theirs)
    for frame, logits in theirs.items():
        compare(mine[frame], logits)
    return theirs


def compare(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    mine = F.interpolate(mine, theirs.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE)
    left, right = mine > 0, theirs > 0
    overlap = (left & right).sum((1, 2, 3)) / (left | right).sum((1, 2, 3))
    assert (overlap >= 0.999).all()
    assert theirs.abs().amax((1, 2, 3)).min() > 1 and theirs.min() > -1000, "objects are absent"
    assert right.any() and not right.all()


PROMPTS = {
    "1 mask": [mask(0, 0)],
    "4 kinds": [mask(0, 0), click(1, 0), box(2, 0), box(3, 0, clicked=True)],
    "9 objects": [mask(0, 0), click(1, 0), box(2, 0), mask(3, 0), click(4, 0, 3), box(5, 0)]
    + [mask(6, 0), click(7, 0, 2), box(8, 0, clicked=True)],
    "later frame": [click(0, 3), box(1, 3)],
    "conditioning frames": [mask(0, 0), click(0, 4), box(0, 5), click(1, 0), mask(1, 3)],
}


@pytest.mark.parametrize("case", PROMPTS)
def test_forward(pair, clip, case):
    theirs = agree(pair, clip, PROMPTS[case])
    first, last = theirs[min(theirs)], theirs[max(theirs)]
    assert (first - last).abs().max() > 1, "nothing happens in this clip"


def test_backward(pair, clip):
    prompts = [mask(0, 4), click(1, 6), box(1, 4)]
    theirs = agree(pair, clip, prompts, meta_options=dict(reverse=True), direction="backward")
    assert list(theirs) == [4, 3, 2, 1, 0]


def test_late_objects_as_metas_predictor_tracks_them(pair, clip):
    """It also tracks them before their first prompt, and remembers that."""
    prompts = [mask(0, 0), click(1, 2), box(2, 2), mask(3, 5)]
    meta, ours = pair
    # memories are bfloat16; without a pointer beside them Meta's predictor wants autocast
    cast = meta.memory_attention.register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | {"memory": kwargs["memory"].float()}),
        with_kwargs=True,
    )
    theirs = agree(pair, clip, prompts, options=dict(before_prompt="tracked"))
    cast.remove()
    predictor = VideoPredictor(ours, resize="meta")
    absent = dict(predictor.logits(FrameFolder(clip), prompts))
    assert (absent[1][1:] == -1024).all() and (theirs[1][1:] > -1000).all()
    for group in (prompts[:1], prompts[1:3], prompts[3:]):  # as Meta's tool for late objects does
        rows = [prompts.index(prompt) for prompt in group]
        for frame, logits in run_meta(meta, clip, group).items():
            compare(absent[frame][rows], logits)


def test_more_frames_than_pointers(pair, tmp_path):
    clip = write_clip(tmp_path, frames=20, height=HEIGHT, width=WIDTH)
    agree(pair, clip, [click(0, 0), mask(1, 0)])


def test_22_memory_slots(tmp_path):
    clip = write_clip(tmp_path, frames=25, height=HEIGHT, width=WIDTH)
    agree(predictor_pair(image_size=SIDE, num_maskmem=22), clip, [mask(0, 0)])


def test_sam_2_0(clip):
    agree(predictor_pair(image_size=SIDE, version="2.0"), clip, [click(0, 0), mask(1, 0)])


@pytest.mark.parametrize("size", [(128, 128), (200, 60), (61, 301)])
def test_frames_of_other_shapes(pair, tmp_path, size):
    height, width = size
    clip = write_clip(tmp_path, frames=3, height=height, width=width)
    shape = np.zeros(size, bool)
    shape[height // 4 : height // 2, width // 5 : width // 2] = True
    point = np.array([[0.4 * width, 0.6 * height]])
    prompts = [
        ObjectPrompt(1, 0, mask=shape),
        ObjectPrompt(2, 0, points=point, labels=np.array([1])),
    ]
    agree(pair, clip, prompts)


def test_the_resize_matters(pair, clip):
    """Without this, the named resize would prove nothing."""
    _, ours = pair
    video = FrameFolder(clip)
    answers = [
        dict(VideoPredictor(ours, resize=how).logits(video, [mask(0, 0)]))[3]
        for how in ("meta", "training")
    ]
    assert (answers[0] - answers[1]).abs().max() > 50 * TOLERANCE


def test_chunks_of_objects_change_nothing(pair, clip):
    agree(pair, clip, [*PROMPTS["4 kinds"], mask(4, 0)], options=dict(object_chunk=2))


@pytest.mark.parametrize("conditioning", [True, False])
@pytest.mark.parametrize("what", ["click", "two clicks", "mask"])
def test_corrections_of_tracked_frames(pair, clip, what, conditioning):
    """Meta's: track on to frame 3, correct it there, and go on from it."""
    meta, ours = pair
    start = [mask(0, 0), click(1, 0)]
    at = {"click": click(0, 3), "two clicks": click(0, 3, 2), "mask": mask(0, 3)}[what]
    state = meta.init_state(str(clip))
    meta.add_all_frames_to_correct_as_cond = conditioning
    with torch.inference_mode():
        for prompt in start:
            add_to_meta(meta, state, prompt)
        theirs = {f: m for f, _, m in meta.propagate_in_video(state, max_frame_num_to_track=3)}
        tracked = theirs[3][0]
        add_to_meta(meta, state, at)
        output = state["temp_output_dict_per_obj"][0]
        store = output["cond_frame_outputs" if conditioning else "non_cond_frame_outputs"]
        corrected = store[3]["pred_masks"]
        theirs |= {f: m for f, _, m in meta.propagate_in_video(state, start_frame_idx=4)}
    meta.add_all_frames_to_correct_as_cond = False
    predictor = VideoPredictor(
        ours, resize="meta", corrected_frames="conditioning" if conditioning else "tracked"
    )
    prompts = start + [replace(at, correction=True)]
    mine = dict(predictor.logits(FrameFolder(clip), prompts))
    torch.testing.assert_close(mine[3][:1], corrected, rtol=0, atol=TOLERANCE)
    assert (F.interpolate(corrected, tracked.shape[-2:]) - tracked).abs().max() > 1
    for frame in (0, 1, 2, 4, 5, 6):
        compare(mine[frame], theirs[frame])


def test_non_overlapping_masks(pair, clip):
    meta, ours = pair
    prompts = PROMPTS["4 kinds"]
    meta.non_overlap_masks = True
    theirs = run_meta(meta, clip, prompts)
    meta.non_overlap_masks = False
    predictor = VideoPredictor(ours, resize="meta", non_overlapping=True)
    plain = dict(VideoPredictor(ours, resize="meta").propagate(FrameFolder(clip), prompts))
    for frame, masks in predictor.propagate(FrameFolder(clip), prompts):
        assert (masks == (theirs[frame][:, 0] > 0).numpy()).mean() > 0.999  # near ties
        assert masks.sum(0).max() == 1 and plain[frame].sum(0).max() > 1
        assert np.array_equal(masks.any(0), plain[frame].any(0))


def test_winners_are_metas(pair):
    logits = torch.randn(5, 1, 20, 30, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    theirs = pair[0]._apply_non_overlapping_constraints(logits) > 0
    assert torch.equal(winners(logits[:, 0]), theirs[:, 0])


def test_filled_holes(pair, clip, monkeypatch):
    """Meta's rule, with SciPy in the place of its CUDA extension."""
    import sam2.utils.misc as misc
    from scipy import ndimage

    def components(where):
        labels = torch.zeros(where.shape, dtype=torch.int32)
        areas = torch.zeros(where.shape, dtype=torch.int32)
        for row in range(len(where)):
            found, count = ndimage.label(where[row, 0].numpy(), structure=np.ones((3, 3)))
            labels[row, 0] = torch.from_numpy(found)
            for number in range(1, count + 1):
                areas[row, 0][labels[row, 0] == number] = int((found == number).sum())
        return labels, areas

    meta, ours = pair
    prompts = [click(0, 0, 3), box(1, 0), mask(2, 0)]
    plain = run_meta(meta, clip, prompts)
    monkeypatch.setattr(misc, "get_connected_components", components)
    monkeypatch.setattr(meta, "fill_hole_area", 6)
    filled = agree(pair, clip, prompts, options=dict(fill_hole_area=6))
    changed = [(plain[frame] - filled[frame]).abs().max() > 0.05 for frame in plain]
    assert sum(changed) > 1
