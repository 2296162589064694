"""The training loop: steps from where the run stands to the last one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from projects.common.engine.accumulation import share_counts
from projects.common.engine.watchdog import Watchdog
from projects.common.samplers import StepBatchSampler


class StepLoop(BaseLoop):
    """Runs the steps of a loader whose sampler can start anywhere.

    mmengine's own loop starts its workers before it knows where to start, and resumes by reading
    and dropping all batches before; this one asks the sampler for the right batch.

    Args:
        accumulate: batches of one optimizer step.

    Attributes:
        stop_training: hooks may set it (early stopping): the step is the last one.
        waited: seconds that the current step waited for its data.
    """

    def __init__(
        self,
        *,
        runner: Any,
        dataloader: DataLoader,
        watchdog_minutes: float | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__(runner, dataloader)
        self._iter = 0
        self.stop_training = False
        self.waited = 0.0
        self._watchdog_minutes = watchdog_minutes
        self._accumulate = accumulate

    @property
    def max_iters(self) -> int:
        return self.dataloader.batch_sampler.max_steps

    @property
    def max_epochs(self) -> int:
        return 1

    @property
    def epoch(self) -> int:
        return 0

    @property
    def iter(self) -> int:
        return self._iter

    def run(self) -> Any:
        """Train from the current step to the last; hooks see one epoch, the whole run."""
        runner = self.runner
        self.watchdog = Watchdog(minutes=self._watchdog_minutes, logger=runner.logger)
        try:
            runner.call_hook("before_train")
            runner.call_hook("before_train_epoch")
            for data_batch in self._batches():
                runner.model.train()
                self._run_step(data_batch)
            runner.call_hook("after_train_epoch")
            runner.call_hook("after_train")
        finally:
            self.watchdog.close()
        return runner.model

    def _batches(self) -> Iterator[dict]:
        """Batch after batch; those of one optimizer step are read together, to be counted."""
        self.dataloader.batch_sampler.start_step = self._iter
        loaded = iter(self.dataloader)
        while self._iter < self.max_iters and not self.stop_training:
            start = time.monotonic()
            left = self._accumulate - self._iter % self._accumulate
            steps = range(self._iter, min(self._iter + left, self.max_iters))
            window = [self._read(loaded, step) for step in steps]
            self.waited = time.monotonic() - start
            if self._accumulate > 1:
                share_counts([data_batch["batch"] for data_batch in window])
            for data_batch in window:
                if self.stop_training:
                    return
                yield data_batch
                self.waited = 0.0

    def _read(self, loaded: Iterator[dict], step: int) -> dict:
        draws = partial(_name_draws, self.dataloader.batch_sampler, step)
        with self.watchdog.watching(f"waiting for the data of step {step + 1}", draws):
            return next(loaded)

    def _run_step(self, data_batch: dict) -> None:
        runner, step = self.runner, self._iter
        batch = data_batch["batch"]
        with self.watchdog.watching(
            f"computing step {step + 1}",
            lambda: f"task {getattr(batch, 'task', '')}, samples {getattr(batch, 'names', '')}",
        ):
            runner.call_hook("before_train_iter", batch_idx=step, data_batch=data_batch)
            outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
        runner.call_hook("after_train_iter", batch_idx=step, data_batch=data_batch, outputs=outputs)
        self._iter = step + 1


def _name_draws(sampler: StepBatchSampler, step: int) -> str:
    return ", ".join(f"dataset {d.dataset} index {d.index}" for d in sampler.batch(step))
