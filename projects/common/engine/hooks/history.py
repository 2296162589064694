"""Keeps ``training_metrics.json`` up to date (see ``engine/history.py``)."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.hooks import Hook

from projects.common.engine import checkpoints
from projects.common.engine.distributed import get_rank
from projects.common.engine.history import describe_run, read_lines
from projects.common.engine.hooks.metrics import FILE
from projects.common.engine.interval import Every


class HistoryHook(Hook):
    """Writes it whole at the start, in the given rhythms and at the end; never half."""

    priority = "LOWEST"

    def __init__(self, *, rhythms: list[Every]) -> None:
        self.rhythms = rhythms

    def before_train(self, runner) -> None:
        self._write(runner)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if any(every.due(batch_idx + 1) for every in self.rhythms):
            self._write(runner)

    def after_train(self, runner) -> None:
        self._write(runner)

    def _write(self, runner) -> None:
        if get_rank() != 0:
            return
        work_dir = Path(runner.work_dir)
        history = describe_run(
            read_lines(work_dir / FILE),
            best=runner.best,
            max_steps=runner.max_iters,
            epoch_steps=float(runner.train_dataloader.batch_sampler.epoch_steps),
            stopped=runner.stopped,
        )
        checkpoints.write_text(work_dir / checkpoints.HISTORY, json.dumps(history, indent=1) + "\n")
