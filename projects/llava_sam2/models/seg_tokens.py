"""The hidden states at [SEG], lined up with the expressions that they stand for.

Shapes: B samples, L tokens, D hidden size, K [SEG] tokens of all samples together.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from projects.common.conversation import SEG


def gather_seg(hidden: Tensor, input_ids: Tensor, seg_id: int) -> tuple[Tensor, list[int]]:
    """Hidden states at the [SEG] tokens of the input, sample by sample, in reading order.

    Args:
        hidden: ``[B, L, D]``.
        input_ids: ``[B, L]``.
        seg_id: of [SEG].

    Returns:
        ``[K, D]``, and how many of them belong to each sample.
    """
    places = input_ids == seg_id
    return hidden[places], places.sum(1).tolist()


def check_counts(
    seg_counts: Sequence[int], masks: Sequence[Tensor | None], names: Sequence[str]
) -> None:
    """Every sample with masks has one [SEG] for each of its expressions.

    Args:
        seg_counts: [SEG] tokens of each sample.
        masks: ``[E, T, h, w]`` of each sample, or None for a sample that has none.
        names: of the samples.

    Raises:
        ValueError: naming the samples, with both counts.
    """
    wrong = [
        f"{name}: {count} {SEG} tokens but {len(mask)} expressions with masks"
        for name, count, mask in zip(names, seg_counts, masks, strict=True)
        if mask is not None and count != len(mask)
    ]
    if wrong:
        raise ValueError(
            "; ".join(wrong)
            + f". Each answer to an expression holds one {SEG}, and nothing else does"
        )
