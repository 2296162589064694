"""Saves every N steps and at the end."""

from __future__ import annotations

from pathlib import Path

from mmengine.hooks import Hook

from projects.common.engine import checkpoints
from projects.common.engine.distributed import barrier, get_rank
from projects.common.engine.resume import save_training


class CheckpointHook(Hook):
    """Keeps the newest ``keep`` checkpoints, and the final weights when the run is over.

    Args:
        interval: steps between checkpoints; the last step is always saved.
        keep: how many are kept.
    """

    priority = "VERY_LOW"  # after the schedulers, whose state belongs to the next step

    def __init__(self, *, interval: int = 1000, keep: int = 2) -> None:
        if interval < 1 or keep < 1:
            raise ValueError(f"checkpoint: interval {interval} and keep {keep} must be at least 1")
        self.interval = interval
        self.keep = keep

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        step = batch_idx + 1
        if step % self.interval == 0 or step == runner.max_iters:
            folder = Path(runner.work_dir) / checkpoints.folder_name(step)
            save_training(runner, folder, step=step, keep=self.keep)

    def after_train(self, runner) -> None:
        """Write the final weights: their presence says that the run came to its end."""
        newest = checkpoints.find_latest(Path(runner.work_dir))
        if get_rank() == 0 and newest is not None and runner.iter >= runner.max_iters:
            checkpoints.copy_file(
                newest / checkpoints.WEIGHTS, Path(runner.work_dir) / checkpoints.WEIGHTS
            )
        barrier()
