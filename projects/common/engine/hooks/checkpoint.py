"""Saves in a rhythm, after the best validation, and at the end."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmengine.hooks import Hook

from projects.common.engine import checkpoints
from projects.common.engine.distributed import barrier, get_rank
from projects.common.engine.interval import Every
from projects.common.engine.resume import save_training


class CheckpointHook(Hook):
    """Keeps the newest ``keep`` checkpoints, the best one, and the final weights.

    Args:
        every: when to save; the last step is always saved.
        keep: how many are kept, the best one not counted.
    """

    priority = "VERY_LOW"  # after the schedulers, whose state belongs to the next step

    def __init__(self, *, every: Every, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"checkpoint.keep {keep} must be at least 1")
        self.every = every
        self.keep = keep

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        step, work_dir = batch_idx + 1, Path(runner.work_dir)
        folder, best = work_dir / checkpoints.folder_name(step), work_dir / checkpoints.BEST_FOLDER
        is_best = runner.best.metric is not None and runner.best.step == step
        # The best one first: a run killed in between goes on from an earlier checkpoint, and finds
        # it again. The other way round, the newest would believe in a best one that is not there.
        if is_best:
            save_training(runner, best, step=step)
        if self.every.due(step) or runner.is_last(step):
            if not is_best:
                save_training(runner, folder, step=step)
            elif get_rank() == 0:
                checkpoints.link_folder(best, folder)
            if get_rank() == 0:
                checkpoints.drop_oldest(folder, self.keep)
                if not runner.is_last(step):
                    _warn_if_full(runner.logger, folder)
            barrier()

    def after_train(self, runner) -> None:
        """Write the final weights: their presence says that the run came to its end."""
        work_dir = Path(runner.work_dir)
        newest = checkpoints.find_latest(work_dir)
        if get_rank() == 0 and newest is not None and runner.is_last(runner.iter):
            for name in (checkpoints.EMA, checkpoints.WEIGHTS):
                if (newest / name).is_file():
                    checkpoints.copy_file(newest / name, work_dir / name)
        barrier()


def _warn_if_full(logger, folder: Path) -> None:
    """Tell that the next checkpoint will not fit as soon as this one shows it."""
    needed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        logger.warning(
            f"the next checkpoint will not fit: {folder.name} takes {needed / 2**20:,.0f} MiB and "
            f"{free / 2**20:,.0f} MiB are free on its disk: make room, or training ends there"
        )
