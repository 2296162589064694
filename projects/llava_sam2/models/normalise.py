"""What losses are divided by, so that a step does not depend on how its batch lies over ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def mean_count(count: int, device: torch.device, *, known: float | None = None) -> Tensor:
    """Tokens or rows per rank, averaged over the ranks; 1 where nobody has any.

    Data parallel engines average gradients over ranks. Sums divided by this number then add up to
    the mean over the global batch. Every rank must call it equally often; task-pure batches do.

    Args:
        count: of this rank's batch.
        known: the mean over ranks and accumulated batches, where the loop has counted it
            (:mod:`projects.common.engine.accumulation`); engines average over those as well.
    """
    if known is not None:
        return torch.tensor(known if known > 0 else 1.0, device=device)
    total = torch.tensor(float(count), device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return torch.where(total > 0, total, 1.0)


def most_over_ranks(count: int, device: torch.device) -> int:
    """The largest count of any rank: what decides how often modules are called must be alike."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return count
    most = torch.tensor(count, device=device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)
