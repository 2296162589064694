"""What a run writes down, and what it shows.

``work_dir/metrics.jsonl`` has one line per logged step: step, epoch, task, learning rates, losses
(of that very step, averaged over the ranks), gradient norm, samples and seconds, memory; and one
per validation: step, epoch, scores, seconds (``validation_time``). The same numbers go to
mmengine's visualizer, that is to TensorBoard or Weights & Biases.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook

from projects.common.engine import checkpoints
from projects.common.engine.distributed import get_rank, mean_over_ranks
from projects.common.engine.history import read_lines
from projects.common.engine.interval import Every
from projects.common.progress import Progress

FILE = "metrics.jsonl"


class MetricsHook(Hook):
    """Writes metrics and moves the progress bar.

    Args:
        interval: steps between lines; the last step is always logged.
        also: further rhythms; a step that is validated has a line.
    """

    priority = "BELOW_NORMAL"  # before the schedulers change the learning rate

    def __init__(self, *, interval: int = 10, also: tuple[Every, ...] = ()) -> None:
        if interval < 1:
            raise ValueError(f"log.interval {interval} must be at least 1")
        self.interval = interval
        self.also = also
        self._waiting = self._working = 0.0  # seconds for data, for the step, since the last line
        self._steps = self._samples = 0

    def before_train(self, runner) -> None:
        self._path = Path(runner.work_dir) / FILE
        if get_rank() == 0:
            truncate_metrics(self._path, runner.iter)
        name = Path(runner.work_dir).name
        self._progress = Progress(
            total=runner.max_iters, initial=runner.iter, description=f"training {name}"
        )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._start = time.monotonic()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # validations and checkpoints lie between the steps and are not counted
        self._working += time.monotonic() - self._start
        self._waiting += runner.train_loop.waited
        self._steps += 1
        self._samples += runner.train_dataloader.batch_sampler.samples_of(batch_idx)
        step = batch_idx + 1
        note = None
        due = step % self.interval == 0 or any(every.due(step) for every in self.also)
        if due or step == runner.max_iters:
            line = self._line(runner, step, data_batch, outputs)
            if get_rank() == 0:
                self._write(runner, line)
            note = f"loss {line['loss']:.4g}, lr {line['lr']:.2e}"
        self._progress.update(note=note)

    def after_train(self, runner) -> None:
        self._progress.close()

    def _line(self, runner, step: int, data_batch: Any, outputs: dict) -> dict[str, Any]:
        values = {key: float(value) for key, value in outputs.items()}
        line: dict[str, Any] = {"step": step, "epoch": runner.epochs(step)}
        line["task"] = getattr(data_batch["batch"], "task", "")
        line["lr"] = runner.optim_wrapper.get_lr()["lr"][0]
        rates = learning_rates(runner.optim_wrapper.optimizer)
        if len(rates) > 1:
            line["lrs"] = rates
        line.update(mean_over_ranks(values))
        norm = runner.strategy.grad_norm()
        if norm is not None:
            line["grad_norm"] = norm
        seconds = self._waiting + self._working
        line["samples_per_second"] = self._samples / seconds
        line["time"] = seconds / self._steps
        line["data_time"] = self._waiting / self._steps
        line["memory_mb"] = peak_memory_mb()
        self._waiting = self._working = 0.0
        self._steps = self._samples = 0
        return line

    def _write(self, runner, line: dict[str, Any]) -> None:
        append_line(self._path, line)
        numbers = {key: value for key, value in line.items() if isinstance(value, (int, float))}
        numbers |= {f"lr/{name}": rate for name, rate in line.get("lrs", {}).items()}
        step = numbers.pop("step")
        runner.visualizer.add_scalars(numbers, step=step)


def learning_rates(optimizer: Any) -> dict[str, float]:
    """The rate of each named group (see ``TrainableGroups``); groups that share one come once."""
    return {group.get("name", "all"): float(group["lr"]) for group in optimizer.param_groups}


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add a line; what is no finite number becomes null, since JSON has no word for it."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in line.items()
    }
    with path.open("a") as file:
        file.write(json.dumps(plain) + "\n")


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the lines up to ``step``: what a killed run logged after that is done again."""
    kept = [line for line in read_lines(path) if line["step"] <= step]
    checkpoints.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def peak_memory_mb() -> float:
    """Most memory held so far: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
