"""The training loop: steps from where the run stands to the last one."""

from __future__ import annotations

from typing import Any

from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader


class StepLoop(BaseLoop):
    """Runs the steps of a loader whose sampler can start anywhere.

    mmengine's own loop starts its workers before it knows where to start, and resumes by reading
    and dropping all batches before; this one asks the sampler for the right batch.
    """

    def __init__(self, *, runner: Any, dataloader: DataLoader) -> None:
        super().__init__(runner, dataloader)
        self._iter = 0
        self.stop_training = False  # hooks may set it (early stopping)

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
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        self.dataloader.batch_sampler.start_step = self._iter
        for data_batch in self.dataloader:
            runner.model.train()
            self._run_step(data_batch)
            if self.stop_training:
                break
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    def _run_step(self, data_batch: dict) -> None:
        runner, step = self.runner, self._iter
        runner.call_hook("before_train_iter", batch_idx=step, data_batch=data_batch)
        outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
        runner.call_hook("after_train_iter", batch_idx=step, data_batch=data_batch, outputs=outputs)
        self._iter = step + 1
