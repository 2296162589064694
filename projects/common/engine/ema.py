"""Exponential moving average of the trainable parameters.

average <- decay * average + (1 - decay) * parameter, after every update of the optimizer; with a
warm-up, decay is at most (1 + updates) / (warmup + updates), so that early averages forget fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from projects.common.checkpoint import read_state
from projects.common.engine import checkpoints


class Ema:
    """Averages in float32, on the device of the parameters, the same on every rank.

    Args:
        module: whole parameters on every rank, which excludes ZeRO-3.
        decay: of an update, in (0, 1).
        warmup: see the module; 0 uses ``decay`` from the start.
    """

    def __init__(self, module: nn.Module, *, decay: float, warmup: float = 10.0) -> None:
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.averages = {
            n: p.detach().to(torch.float32, copy=True) for n, p in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        self.updates += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.updates) / (self.warmup + self.updates))
        current = [p.detach().float() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module computes with the averages; no tensor of it is written."""
        own = {name: parameter.data for name, parameter in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                parameter.data = self.averages[name].to(parameter.dtype)
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = own[name]

    def saved_tensors(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """``weights`` of a checkpoint with the averages in place of the parameters."""
        return {**weights, **{name: value.cpu() for name, value in self.averages.items()}}

    def load(self, file: Path, updates: int) -> None:
        """Go on with the averages of a checkpoint."""
        state = read_state(file)
        for name, average in self.averages.items():
            average.copy_(state[name])
        self.updates = updates


class EmaHook(Hook):
    """Updates ``runner.ema`` after every update of the optimizer."""

    priority = "NORMAL"  # before validation and checkpoints

    def __init__(self, *, accumulate: int = 1) -> None:
        self.accumulate = accumulate

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if (batch_idx + 1) % self.accumulate == 0:
            runner.ema.update()


def restore_ema(ema: Ema | None, folder: Path, state: dict[str, Any] | None) -> str:
    """Go on with the averages of a checkpoint folder; returns what the user should know."""
    if ema is None:
        return f"{folder} has averaged weights, and this run has no ema: dropped" if state else ""
    if state is None:
        return f"{folder} has no averaged weights: the average starts at its weights"
    ema.load(folder / checkpoints.EMA, state["updates"])
    return ""
