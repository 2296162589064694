"""Which expression is decoded on which frame: the rows that heads with masks train on.

Shapes: K expressions ([SEG] tokens) and F frames of all samples together; R rows, one for each
(sample, expression, frame), in this order; L tokens, D hidden size, S the input of SAM 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from projects.llava_sam2.models.normalise import mean_count, most_over_ranks
from projects.llava_sam2.models.seg_tokens import check_counts, gather_seg
from projects.llava_sam2.structures import GroundingBatch
from projects.sam2_video.modeling import Sam2


@dataclass
class Rows:
    """What is decoded, and what should come out."""

    expression: Tensor  # [R] int64, index into the K [SEG] tokens
    frame: Tensor  # [R] int64, index into the F frames
    targets: Tensor  # [R, h, w] bool
    frames: Tensor  # [F, 3, S, S] uint8
    seg_hidden: Tensor  # [K, D]
    weight: Tensor  # of a sum over rows: 1 / rows of the global batch; 0 for a row in place of none


def rows_of(batch: GroundingBatch, hidden: Tensor, *, seg_id: int, grounding: Sam2) -> Rows:
    """Every expression of a sample with each of the sample's frames.

    Where no sample has masks, there is one row on a black frame with the weight zero, so that every
    rank runs the same modules.

    Args:
        hidden: ``[B, L, D]``, last hidden states.
        seg_id: of [SEG].

    Raises:
        ValueError: naming the sample, if [SEG] tokens and expressions differ in number.
    """
    seg_hidden, counts = gather_seg(hidden, batch.input_ids, seg_id)
    check_counts(counts, batch.masks, batch.names)
    pairs = _pairs(counts, batch)
    number = 0 if pairs is None else len(pairs[0])
    weight = 1 / mean_count(number, hidden.device, known=batch.mean_counts.get("rows"))
    if pairs is not None:
        return Rows(*pairs, batch.grounding_frames, seg_hidden, weight)
    size, side, device = grounding.image_size, grounding.mask_size, hidden.device
    index = torch.zeros(1, dtype=torch.int64, device=device)
    empty = torch.zeros(1, side, side, dtype=torch.bool, device=device)
    frame = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
    return Rows(index, index, empty, frame, hidden[0, :1], weight * 0)


def decode_rows(
    decode: Callable[[Tensor, Tensor], tuple[Tensor, ...]], rows: Rows, at_a_time: int | None
) -> tuple[Tensor, ...]:
    """``decode(expression, frame)`` of all rows, tensors ``[R, ...]``.

    Args:
        at_a_time: None: all at once; else so many, recomputed in backward. All ranks then make the
            same number of calls, as ZeRO-3 gathers weights in each: rows fill up by repetition.
    """
    if at_a_time is None:
        return decode(rows.expression, rows.frame)
    number, device = len(rows.frame), rows.frame.device
    calls = -(-most_over_ranks(number, device) // at_a_time)
    place = torch.arange(max(number, calls), device=device) % number
    parts = [
        checkpoint(decode, rows.expression[part], rows.frame[part], use_reentrant=False)
        for part in place.tensor_split(calls)
    ]
    return tuple(torch.cat(part)[:number] for part in zip(*parts, strict=True))


def _pairs(counts: list[int], batch: GroundingBatch) -> tuple[Tensor, Tensor, Tensor] | None:
    """Expressions, frames and targets of the rows; None if there are no masks."""
    expressions, frames, targets = [], [], []
    first_token = first_frame = 0
    for count, length, masks in zip(counts, batch.frames_per_sample, batch.masks, strict=True):
        if masks is not None and count:
            tokens = torch.arange(first_token, first_token + count)
            expressions.append(tokens.repeat_interleave(length))
            frames.append(torch.arange(first_frame, first_frame + length).repeat(count))
            targets.append(masks.flatten(0, 1))
        first_token += count
        first_frame += length
    if not targets:
        return None
    device = batch.input_ids.device
    return torch.cat(expressions).to(device), torch.cat(frames).to(device), torch.cat(targets)
