"""Steps whose loss is NaN or infinite: agree on them, leave them out, keep their batch.

A rank alone cannot leave a step out: the others would wait for its gradients. So all ranks agree
before backward, and none of them runs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from torch import Tensor

from projects.common.whole_file import whole_file

ON_BAD_LOSS = ("stop", "skip")
FOLDER = "bad_batches"


def on_any_rank(bad: Tensor) -> bool:
    """Whether a bool scalar is true on any rank; every rank must ask."""
    flag = bad.detach().float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


class SkipsBadLoss:
    """Before an optimizer wrapper: a step whose loss is not finite on any rank changes nothing."""

    def update_params(self, loss: Tensor, **kwargs: Any) -> None:
        if not on_any_rank(~loss.isfinite().all()):
            super().update_params(loss, **kwargs)  # type: ignore[misc]


class SkippingOptimWrapper(SkipsBadLoss, OptimWrapper):
    """mmengine's wrapper; the gradients are not accumulated over steps."""


def dump_batch(batch: Any, path: Path) -> None:
    """Write a batch as plain dicts of tensors, to be read by ``torch.load(weights_only=True)``.

    Numbers and words (names, task) stay beside the tensors; what is neither is left out.

    Args:
        batch: a typed batch.
        path: ``.pt`` file; its folder is made.
    """
    with whole_file(path) as partial:
        torch.save(_plain(batch), partial)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()  # a view would bring its whole storage along
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool)) else None
