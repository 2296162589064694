"""What a run writes down, and what it shows.

``work_dir/metrics.jsonl`` has one line per logged step: step, task, lr, losses (of that very step,
averaged over the ranks), seconds and memory. The same numbers go to mmengine's visualizer, that is
to TensorBoard or Weights & Biases.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook

from projects.common.engine import checkpoints
from projects.common.engine.distributed import get_rank, mean_over_ranks
from projects.common.progress import Progress

FILE = "metrics.jsonl"


class MetricsHook(Hook):
    """Writes metrics and moves the progress bar.

    Args:
        interval: steps between lines; the last step is always logged.
    """

    priority = "BELOW_NORMAL"  # before the schedulers change the learning rate

    def __init__(self, *, interval: int = 10) -> None:
        if interval < 1:
            raise ValueError(f"log.interval {interval} must be at least 1")
        self.interval = interval
        self._waiting = self._working = 0.0  # seconds for data, for the step, since the last line
        self._steps = 0

    def before_train(self, runner) -> None:
        self._path = Path(runner.work_dir) / FILE
        if get_rank() == 0:
            truncate_metrics(self._path, runner.iter)
        name = Path(runner.work_dir).name
        self._progress = Progress(
            total=runner.max_iters, initial=runner.iter, description=f"training {name}"
        )
        self._mark = time.monotonic()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._waiting += self._lap()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._working += self._lap()
        self._steps += 1
        step = batch_idx + 1
        note = None
        if step % self.interval == 0 or step == runner.max_iters:
            line = self._line(runner, step, data_batch, outputs)
            if get_rank() == 0:
                self._write(runner, line)
            note = f"loss {line['loss']:.4g}, lr {line['lr']:.2e}"
        self._progress.update(note=note)
        self._mark = time.monotonic()

    def after_train(self, runner) -> None:
        self._progress.close()

    def _lap(self) -> float:
        before, self._mark = self._mark, time.monotonic()
        return self._mark - before

    def _line(self, runner, step: int, data_batch: Any, outputs: dict) -> dict[str, Any]:
        values = {key: float(value) for key, value in outputs.items()}
        line = {"step": step, "task": getattr(data_batch["batch"], "task", "")}
        line["lr"] = runner.optim_wrapper.get_lr()["lr"][0]
        line.update(mean_over_ranks(values))
        norm = runner.strategy.grad_norm()
        if norm is not None:
            line["grad_norm"] = norm
        line["time"] = (self._waiting + self._working) / self._steps
        line["data_time"] = self._waiting / self._steps
        line["memory_mb"] = peak_memory_mb()
        self._waiting = self._working = 0.0
        self._steps = 0
        return line

    def _write(self, runner, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        numbers = {key: value for key, value in line.items() if not isinstance(value, str)}
        step = numbers.pop("step")
        runner.visualizer.add_scalars(numbers, step=step)


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the lines up to ``step``: what a killed run logged after that is done again."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    kept = []
    for line in lines:
        # only the last line can be torn, by a kill in the middle of writing it
        if line.endswith("\n") and json.loads(line)["step"] <= step:
            kept.append(line)
    checkpoints.write_text(path, "".join(kept))


def peak_memory_mb() -> float:
    """Most memory held so far: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
