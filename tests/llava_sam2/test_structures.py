from __future__ import annotations

import pytest
import torch

from projects.llava_sam2.structures import GroundingSample, collate_grounding


def sample(name, length, *, tiles=0, frames=0, expressions=0, task="segment"):
    value = len(name)
    return GroundingSample(
        task=task,
        name=name,
        input_ids=torch.arange(1, length + 1),
        labels=torch.arange(1, length + 1) * 10,
        pixel_values=torch.full((tiles, 3, 2, 2), value, dtype=torch.uint8) if tiles else None,
        grounding_frames=torch.full((frames, 3, 4, 4), value, dtype=torch.uint8)
        if frames
        else None,
        masks=torch.ones(expressions, frames, 3, 3, dtype=torch.bool) if expressions else None,
    )


def test_collate_pads_on_the_right_and_keeps_the_order_of_all_streams():
    batch = collate_grounding(
        [
            sample("a", 2, tiles=1, frames=1, expressions=2),
            sample("bb", 3),
            sample("ccc", 1, tiles=2, frames=3, expressions=1),
        ],
        pad_id=7,
    )
    assert batch.input_ids.tolist() == [[1, 2, 7], [1, 2, 3], [1, 7, 7]]
    assert batch.labels.tolist() == [[10, 20, -100], [10, 20, 30], [10, -100, -100]]
    assert batch.attention_mask.tolist() == [
        [True, True, False],
        [True, True, True],
        [True, False, False],
    ]
    assert batch.pixel_values[:, 0, 0, 0].tolist() == [1, 3, 3]
    assert batch.grounding_frames[:, 0, 0, 0].tolist() == [1, 3, 3, 3]
    assert batch.frames_per_sample == [1, 0, 3]
    assert [None if m is None else tuple(m.shape) for m in batch.masks] == [
        (2, 1, 3, 3),
        None,
        (1, 3, 3, 3),
    ]
    assert batch.names == ["a", "bb", "ccc"] and batch.task == "segment"


def test_to_moves_every_tensor_and_keeps_the_rest():
    batch = collate_grounding([sample("a", 2, tiles=1, frames=1, expressions=1), sample("b", 1)])
    moved = batch.to("meta")
    assert moved.task == batch.task and moved.frames_per_sample == [1, 0]
    tensors = [moved.input_ids, moved.labels, moved.attention_mask, moved.pixel_values]
    tensors += [moved.grounding_frames, moved.masks[0]]
    assert all(tensor.is_meta for tensor in tensors) and moved.masks[1] is None
    assert not batch.input_ids.is_meta


def test_streams_that_do_not_line_up_name_the_sample():
    with pytest.raises(ValueError, match="one task, got .*chat.*segment"):
        collate_grounding([sample("a", 1), sample("b", 1, task="chat")])
    broken = sample("clip 3", 4, frames=2, expressions=1)
    broken.grounding_frames = broken.grounding_frames[:1]
    with pytest.raises(ValueError, match=r"clip 3: masks of shape \(1, 2, 3, 3\) beside 1 ground"):
        collate_grounding([sample("a", 1), broken])
    broken = sample("clip 4", 4)
    broken.labels = broken.labels[:-1]
    with pytest.raises(ValueError, match="clip 4: 4 input_ids but 3 labels"):
        collate_grounding([broken])
