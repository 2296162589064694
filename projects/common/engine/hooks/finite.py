"""Names the samples of a loss that is no number, keeps their batch, and stops or goes on."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from mmengine.hooks import Hook

from projects.common.engine.bad_loss import FOLDER, dump_batch, on_any_rank
from projects.common.engine.distributed import get_rank

IN_A_ROW = 10  # skipped steps, after which the weights are the cause and not the samples


class FiniteLossHook(Hook):
    """Looks at the losses of each step, before a checkpoint could keep what they did.

    The rank with a NaN or infinite loss names itself and its samples, and writes its batch to
    ``bad_batches/step_N_rank_R.pt`` of the work dir. Then all ranks stop, or go on (see
    :class:`projects.common.engine.bad_loss.SkipsBadLoss`, which has left the step out).

    Args:
        on_bad_loss: "stop" or "skip"; ten bad steps in a row stop the run in any case.
    """

    priority = "VERY_HIGH"

    def __init__(self, *, on_bad_loss: str = "stop") -> None:
        self.skip = on_bad_loss == "skip"
        self.in_a_row = 0

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        losses = {key: value for key, value in outputs.items() if key.startswith("loss")}
        finite = torch.stack([value.detach().float() for value in losses.values()]).isfinite().all()
        if not on_any_rank(~finite):  # the one wait for the device in a step
            self.in_a_row = 0
            return
        self.in_a_row += 1
        news = f"step {batch_idx + 1}: the loss of another rank is not finite, see its message"
        if not finite:
            path = Path(runner.work_dir) / FOLDER / f"step_{batch_idx + 1}_rank_{get_rank()}.pt"
            dump_batch(data_batch["batch"], path)
            news = f"{_describe(batch_idx + 1, losses, data_batch['batch'])}; the batch is {path}"
        if self.skip and self.in_a_row < IN_A_ROW:
            # an error, since a warning of rank 1 is not shown
            (runner.logger.info if finite else runner.logger.error)(f"{news}; the step is left out")
            return
        raise FloatingPointError(
            f"{news}; look at these samples, lower the learning rate or clip gradients; "
            "the last checkpoint is from before"
        )


def _describe(step: int, losses: dict, batch) -> str:
    bad = {k: float(v) for k, v in losses.items() if not math.isfinite(float(v))}
    names = getattr(batch, "names", None) or "unnamed"
    task = getattr(batch, "task", "unknown")
    return f"step {step}, rank {get_rank()}: {bad} (task {task}, samples {names})"
