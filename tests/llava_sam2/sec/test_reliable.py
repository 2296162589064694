"""Which frames a reliable memory reads, in which places, and how many it holds."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from projects.llava_sam2.sec.predictor import SecPredictor
from projects.llava_sam2.sec.reliable import ReliableMemory
from projects.sam2_video.modeling import MemoryBank
from projects.sam2_video.predictor import VideoPredictor
from projects.sam2_video.toy import toy_sam2
from tests.llava_sam2.sec.parts import prompt, video


def filled(good, *, slots=4, pointers=3, frames=100):
    """Frame 0 prompted, then tracked frames; memories and pointers hold their frame's number."""
    bank = ReliableMemory(num_maskmem=slots, max_object_pointers=pointers, num_frames=frames)
    for frame in range(len(good) + 1):
        value = torch.full((1, 1), float(frame))
        bank.add(frame, memory=value, pointer=value, conditioning=frame == 0)
        if frame:
            bank.rate(frame, reliable=good[frame - 1])
    return bank


def read(bank, frame):
    found = bank.read(frame)
    return (
        [(slot, int(memory)) for slot, memory in found.memories],
        [(offset, int(pointer)) for offset, pointer in found.pointers],
    )


def by_the_released_rule(good, frame, *, slots, pointers):
    """The rule as SeC states it for frames 1, 2, ... tracked after the prompted frame 0."""
    valid = [f for f in range(frame - 1, 0, -1) if good[f - 1]][: max(slots, pointers) - 1][::-1]
    if frame - 1 not in valid and frame - 1 != 0:
        valid.append(frame - 1)
    memories = [(slots - 1, 0)]
    for place in range(1, slots):
        back = place - slots
        if back >= -len(valid):
            memories.append((slots - place - 1, valid[back]))
    offsets = [(frame, 0)]
    for back in range(1, pointers):
        if back >= len(valid):
            break
        offsets.append((back, valid[-back]))
    return memories, offsets


@pytest.mark.parametrize(("slots", "pointers"), [(4, 3), (3, 6), (7, 16)])
def test_it_reads_what_the_released_rule_says(slots, pointers):
    draw = np.random.default_rng(1)
    for _ in range(20):
        good = (draw.random(25) < 0.5).tolist()
        for frame in range(1, 26):
            bank = filled(good[: frame - 1], slots=slots, pointers=pointers)
            expected = by_the_released_rule(good, frame, slots=slots, pointers=pointers)
            assert read(bank, frame) == expected
            assert len(bank.tracked) <= max(slots, pointers)


def test_a_frame_seen_well_survives_a_long_occlusion():
    bank = filled([True, True] + [False] * 50)
    assert read(bank, 53) == ([(3, 0), (2, 1), (1, 2), (0, 52)], [(53, 0), (1, 52), (2, 2)])


def test_good_frames_alone_are_sam2s_memory_in_masks():
    plain = MemoryBank(num_maskmem=4, max_object_pointers=3, num_frames=100)
    for frame in range(8):
        value = torch.full((1, 1), float(frame))
        plain.add(frame, memory=value, pointer=value, conditioning=frame == 0)
    assert read(plain, 8) == read(filled([True] * 7), 8)


@pytest.mark.parametrize("score", [3.0, -9.0])
def test_the_predictor_judges_by_iou_and_score(score):
    """Where the score says absent no frame is good, and only the last one is held."""
    sam2 = toy_sam2(seed=1)
    sam2.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(score)
    iou = sam2.blocks.mask_decoder.iou_prediction_head.proj_out.bias
    for good in (True, False):
        iou.data.fill_(2.0 if good else -4.0)
        predictor = SecPredictor(sam2, reliable_memory=True)
        banks, new = [], predictor.tracker.new_memory
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(predictor.tracker, "new_memory", partial(_noted, banks, new))
            assert len(list(predictor.propagate(video(12), [prompt()]))) == 12
        (bank,) = banks
        expected = list(range(5, 12)) if good and score > 0 else [11]
        assert list(bank.tracked) == expected  # 8 pointers are read, so that 7 frames are held


def _noted(banks, new, **options):
    banks.append(new(**options))
    return banks[-1]


def test_objects_are_tracked_one_by_one():
    sam2 = toy_sam2(seed=1)
    sam2.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(3.0)
    predictor = SecPredictor(sam2, reliable_memory=True)
    both = [m for _, m in predictor.propagate(video(6), [prompt(1), prompt(2, top=40)])]
    alone = [m for _, m in predictor.propagate(video(6), [prompt(2, top=40)])]
    assert all(np.array_equal(two[1], one[0]) for two, one in zip(both, alone, strict=True))
    predictor.object_chunk = None
    with pytest.raises(ValueError, match="2 objects in one batch.*object_chunk=1"):
        list(predictor.propagate(video(6), [prompt(1), prompt(2, top=40)]))
    plain = VideoPredictor(sam2)
    assert predictor.settings() == plain.settings() | {"reliable_memory": True}
