"""Stops a run whose loss is no number any more."""

from __future__ import annotations

import math

import torch
from mmengine.hooks import Hook

from projects.common.engine.distributed import get_rank


class FiniteLossHook(Hook):
    """Raises at the first loss that is NaN or infinite, before a checkpoint could keep it."""

    priority = "VERY_HIGH"

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        values = torch.stack([value.detach().float() for value in outputs.values()])
        if values.isfinite().all():  # the one wait for the device in a step
            return
        bad = {k: float(v) for k, v in outputs.items() if not math.isfinite(float(v))}
        batch = data_batch["batch"]
        names = getattr(batch, "names", None)
        raise FloatingPointError(
            f"step {batch_idx + 1}, rank {get_rank()}: {bad} "
            f"(task {getattr(batch, 'task', 'unknown')}, samples {names or 'unnamed'}); "
            "look at these samples, lower the learning rate or clip gradients; "
            "the last checkpoint is from before"
        )
