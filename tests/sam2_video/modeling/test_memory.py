"""What the bank keeps, forgets and gives."""

from __future__ import annotations

import random

import pytest
import torch
from sam2.modeling.sam2_utils import select_closest_cond_frames

from projects.sam2_video.modeling.memory import MemoryBank, closest_conditioning
from projects.sam2_video.modeling.tracker import non_overlapping


def add(bank: MemoryBank, frame: int, *, conditioning: bool = False, rows: int = 2) -> None:
    bank.add(
        frame,
        memory=torch.full((rows, 4, 2, 2), float(frame)),
        pointer=torch.full((rows, 3), float(frame)),
        conditioning=conditioning,
    )


def seen(pairs) -> list[tuple[int, int]]:
    """(slot or offset, frame) of what is read."""
    return [(place, int(tensor.flatten()[0])) for place, tensor in pairs]


def test_slots_and_offsets():
    bank = MemoryBank(num_maskmem=4, max_object_pointers=6)
    add(bank, 0, conditioning=True)
    for frame in range(1, 10):
        add(bank, frame)
    read = bank.read(10)
    # the conditioning frame in the last slot, then the nearest three, farthest first
    assert seen(read.memories) == [(3, 0), (2, 7), (1, 8), (0, 9)]
    assert seen(read.pointers) == [(10, 0), (1, 9), (2, 8), (3, 7), (4, 6), (5, 5)]


def test_reverse_and_past_only():
    bank = MemoryBank(num_maskmem=3, max_object_pointers=16, num_frames=8)
    add(bank, 7, conditioning=True)
    add(bank, 2, conditioning=True)
    for frame in (6, 5):
        add(bank, frame)
    read = bank.read(4, reverse=True)
    assert read.span == 8
    assert seen(read.memories) == [(2, 7), (2, 2), (1, 6), (0, 5)]
    assert seen(read.pointers) == [(3, 7), (-2, 2), (1, 5), (2, 6)]
    assert seen(bank.read(4, reverse=True, past_pointers_only=True).pointers)[0:2] == [
        (3, 7),
        (1, 5),
    ]


def test_conditioning_frames_left_out_serve_as_tracked_ones():
    bank = MemoryBank(num_maskmem=4, max_object_pointers=4)
    for frame in (0, 3, 5, 6):
        add(bank, frame, conditioning=True)
    read = bank.read(7, max_cond_frames=2)
    # the nearest before, then the next nearest; frame 3 is beyond the slots, nothing lies at 4
    assert seen(read.memories) == [(3, 6), (3, 5)]
    read = bank.read(4, max_cond_frames=2)
    assert seen(read.memories) == [(3, 3), (3, 5)]
    assert seen(bank.read(2, max_cond_frames=2).memories) == [(3, 0), (3, 3)]
    read = bank.read(8, max_cond_frames=2)
    assert seen(read.memories) == [(3, 6), (3, 5)]
    add(bank, 7, conditioning=True)
    assert seen(bank.read(8, max_cond_frames=2).memories) == [(3, 7), (3, 6), (2, 5)]
    assert seen(bank.read(8, max_cond_frames=2).pointers) == [(1, 7), (2, 6), (3, 5)]


def test_the_choice_of_conditioning_frames_is_metas():
    draw = random.Random(0)
    for _ in range(300):
        frames = draw.sample(range(30), draw.randint(1, 8))
        now, limit = draw.randrange(30), draw.choice([-1, 2, 3, 5])
        expected, _ = select_closest_cond_frames(now, dict.fromkeys(frames), limit)
        assert closest_conditioning(now, frames, limit) == list(expected)


@pytest.mark.parametrize("step", [1, -1])
def test_a_hundred_frames_do_not_grow_the_bank_and_lose_nothing(step):
    order = list(range(100))[::step]
    bounded = MemoryBank(num_maskmem=7, max_object_pointers=16)
    everything = MemoryBank(num_maskmem=7, max_object_pointers=16, keep_all=True)
    sizes = []
    for frame in order:
        first = frame == order[0]
        if not first:
            left, right = (bank.read(frame, reverse=step < 0) for bank in (bounded, everything))
            assert seen(left.memories) == seen(right.memories)
            assert seen(left.pointers) == seen(right.pointers)
        for bank in (bounded, everything):
            add(bank, frame, conditioning=first)
        memories = sum(m.memory is not None for m in bounded.tracked.values())
        sizes.append((memories, len(bounded.tracked)))
    assert sizes[-1] == sizes[30] == (7, 16)
    assert len(everything.tracked) == 99


def test_a_prompt_on_a_tracked_frame_replaces_it():
    bank = MemoryBank(num_maskmem=4, max_object_pointers=4)
    add(bank, 0, conditioning=True)
    add(bank, 1)
    add(bank, 1, conditioning=True)
    assert list(bank.conditioning) == [0, 1] and not bank.tracked


def test_rows_of_a_bank():
    bank = MemoryBank(
        num_maskmem=4, max_object_pointers=9, num_frames=5, videos=torch.tensor([0, 1])
    )
    bank.add(
        0,
        memory=torch.arange(2.0).view(2, 1, 1, 1),
        pointer=torch.arange(2.0)[:, None],
        conditioning=True,
    )
    one = bank.rows(torch.tensor([1]))
    assert one.conditioning[0].memory.item() == 1 and one.conditioning[0].pointer.item() == 1
    assert one.videos.tolist() == [1] and one.span == 5 and one.num_frames == 5
    assert bank.conditioning[0].memory.shape[0] == 2


def test_pixels_belong_to_one_object_of_each_video():
    logits = torch.tensor([3.0, 5.0, 4.0, -20.0]).view(4, 1, 1, 1)
    kept = non_overlapping(logits, torch.tensor([0, 0, 1, 1])).flatten().tolist()
    assert kept == [-10.0, 5.0, 4.0, -20.0]
    assert non_overlapping(logits, None).flatten().tolist() == [-10.0, 5.0, -10.0, -20.0]
