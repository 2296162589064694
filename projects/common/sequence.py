"""Sequence parallelism: the tokens of one batch are shared out over the ranks of a group.

    x [B, L, D] ──split──► [B, L / P, D] on each of P ranks ──layers──► [B, L / P, D] ──gather──►
                                     attention: heads for tokens, all to all, and back

DeepSpeed-Ulysses (Jacobs et al., 2023), in the groups of xtuner. The ranks of a group read the same
batch and draw the same random numbers; what lies before the split and behind the gather each of
them computes whole. Engines average gradients over all ranks: behind the gather they are equal in a
group, and between split and gather, where a rank knows of its own tokens only, the gather's
backward multiplies by P.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from projects.common.engine.distributed import get_rank, get_world_size

_group: dist.ProcessGroup | None = None


def start(ranks: int) -> None:
    """Put every ``ranks`` processes into a group; 1 for none. The process group must be there.

    Raises:
        ValueError: the number of processes is no multiple of ``ranks``.
    """
    global _group
    if get_world_size() % ranks:
        raise ValueError(
            f"sequence_parallel_size {ranks} does not divide the {get_world_size()} processes"
        )
    if ranks == 1:
        _group = None
        return
    from xtuner.parallel import sequence  # slow to import

    if sequence.get_sequence_parallel_group() is None:  # xtuner's own strategy has begun it
        sequence.init_sequence_parallel(ranks)
    _group = sequence.get_sequence_parallel_group()


def size() -> int:
    """P, ranks of a group."""
    return 1 if _group is None else dist.get_world_size(_group)


def data_rank() -> int:
    """Which of the different batches of a step this rank reads."""
    return get_rank() // size()


def data_ranks() -> int:
    """How many different batches a step has."""
    return get_world_size() // size()


def split(x: Tensor, dim: int) -> Tensor:
    """This rank's part of a tensor that all ranks of the group have; its length divides by P."""
    return _Split.apply(x, dim)


def gather(x: Tensor, dim: int) -> Tensor:
    """All ranks' parts, one after another."""
    return _Gather.apply(x, dim)


def exchange(x: Tensor, *, scatter: int, gather: int) -> Tensor:
    """All to all: ``scatter`` becomes P times shorter, ``gather`` P times longer."""
    return _Exchange.apply(x, scatter, gather)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.shape = dim, x.shape
        return _own_part(x, dim).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        whole = grad.new_zeros(ctx.shape)
        _own_part(whole, ctx.dim).copy_(grad)
        return whole, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        parts = [torch.empty_like(x) for _ in range(size())]
        dist.all_gather(parts, x.contiguous(), group=_group)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _own_part(grad, ctx.dim) * size(), None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scatter: int, gather: int) -> Tensor:
        ctx.dims = scatter, gather
        return _all_to_all(x, scatter, gather)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        scatter, gather = ctx.dims
        return _all_to_all(grad, gather, scatter), None, None


def _own_part(x: Tensor, dim: int) -> Tensor:
    length = x.shape[dim] // size()
    return x.narrow(dim, dist.get_rank(_group) * length, length)


def _all_to_all(x: Tensor, scatter: int, gather: int) -> Tensor:
    given = torch.stack(x.chunk(size(), scatter))
    taken = torch.empty_like(given)
    dist.all_to_all_single(taken, given, group=_group)
    return torch.cat(taken.unbind(), gather)
