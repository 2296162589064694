"""Accumulated gradients that equal those of one large batch.

Engines average the gradients of accumulated batches, which weighs a batch of few tokens as much as
one of many. A batch that can count what its losses are means over (``loss_counts()``) is told the
mean of these counts over the accumulated batches and ranks, in ``mean_counts``; sums divided by it
average to the mean over everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


def share_counts(batches: Sequence[Any]) -> None:
    """Tell the batches of one optimizer step what to divide by.

    Batches without ``loss_counts`` are left alone: their losses are means over themselves. With
    several ranks, all must call it with batches of the same kinds.

    Args:
        batches: typed batches, on the CPU.
    """
    counting = [batch for batch in batches if hasattr(batch, "loss_counts")]
    if not counting:
        return
    counts = [batch.loss_counts() for batch in counting]
    names = sorted(counts[0])
    totals = torch.tensor([[float(c[name]) for name in names] for c in counts]).sum(0)
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        totals = totals.to(device, torch.float64)
        dist.all_reduce(totals)
        ranks = dist.get_world_size()
    means = totals.cpu() / (len(batches) * ranks)
    for batch in counting:
        batch.mean_counts = dict(zip(names, means.tolist(), strict=True))
