"""Validation in the loop: the benchmarks of the final evaluation, while the model trains."""

from __future__ import annotations

import contextlib
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.hooks import Hook

from projects.common.engine.benchmarks import run_benchmarks
from projects.common.engine.distributed import get_world_size
from projects.common.engine.interval import Every
from projects.common.engine.seeding import undisturbed_randomness
from projects.common.evaluation import Benchmark

FOLDER = "validation"


class ValidationHook(Hook):
    """Scores the model in a rhythm and after the last step; says when to stop early.

    Weights, gradients, modes and random numbers of the training are as they were afterwards, so
    that a run with validation has the losses of one without. A validation that raises is logged
    and counted; the training goes on. Records of the newest one are in ``work_dir/validation``.

    Args:
        benchmarks: name to benchmark, built.
        every: when to validate.
        seed: as in the evaluation of a checkpoint.
    """

    priority = 80  # after the metrics of the step, before its checkpoint, which keeps the best

    def __init__(self, *, benchmarks: dict[str, Benchmark], every: Every, seed: int) -> None:
        self.benchmarks = benchmarks
        self.every = every
        self.seed = seed

    def before_train(self, runner) -> None:
        self._stop_if_exhausted(runner)  # a resumed run may have had enough before

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        step = batch_idx + 1
        if self.every.due(step) or step == runner.max_iters:
            self._validate(runner, step)
            self._stop_if_exhausted(runner)

    def _validate(self, runner, step: int) -> None:
        start = time.monotonic()
        try:
            scores = _same_on_all_ranks(self._scores(runner))
            is_best = runner.best.update(scores, step)
        except Exception:
            # hours of training are worth more than one score: the next one may work
            runner.best.failed += 1
            runner.logger.error(
                f"validation at step {step} failed ({runner.best.failed} so far), training goes "
                f"on:\n{traceback.format_exc()}"
            )
            return
        runner.log_scores(scores, step=step, seconds=time.monotonic() - start)
        shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items() if "[" not in key)
        runner.logger.info(f"step {step}: {shown}{' (the best so far)' if is_best else ''}")

    def _scores(self, runner) -> dict[str, float]:
        averaged = runner.ema.applied() if runner.ema else contextlib.nullcontext()
        with undisturbed_randomness(), averaged, torch.no_grad():
            return run_benchmarks(
                self.benchmarks,
                runner.strategy.module,
                Path(runner.work_dir) / FOLDER,
                seed=self.seed,
            )

    def _stop_if_exhausted(self, runner) -> None:
        best = runner.best
        if best.exhausted and not runner.train_loop.stop_training:
            runner.train_loop.stop_training = True
            runner.stopped = (
                f"{best.metric} has not improved by more than {best.min_delta:g} in {best.waited} "
                f"validations; the best was {best.value:.4f} at step {best.step}"
            )
            runner.logger.info(f"stopping early: {runner.stopped}")


def _same_on_all_ranks(scores: dict[str, float]) -> dict[str, float]:
    """Rank 0's: when machines differ in the last digit, all must still stop at the same step."""
    if get_world_size() == 1:
        return scores
    shared = [scores]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]
