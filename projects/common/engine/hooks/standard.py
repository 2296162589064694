"""The hooks that every run has, and those for validation and averages where the config has them."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from projects.common.engine.benchmarks import build_benchmarks, choose
from projects.common.engine.best import Best
from projects.common.engine.config import CHECKPOINT, VALIDATION
from projects.common.engine.ema import EmaHook
from projects.common.engine.hooks.checkpoint import CheckpointHook
from projects.common.engine.hooks.finite import FiniteLossHook
from projects.common.engine.hooks.first_steps import FirstStepsHook
from projects.common.engine.hooks.history import HistoryHook
from projects.common.engine.hooks.metrics import MetricsHook
from projects.common.engine.hooks.samples import SampleEventsHook
from projects.common.engine.hooks.validation import ValidationHook
from projects.common.engine.interval import Every
from projects.common.engine.seeding import StepSeedHook
from projects.common.samplers import StepBatchSampler


def standard_hooks(
    tree: dict[str, Any], sampler: StepBatchSampler, seed: int
) -> tuple[Best, list[Hook]]:
    """Hooks of a run and the tracker of its best validation, which starts without a score."""
    accumulate = tree["optim_wrapper"].get("accumulative_counts", 1)

    def rhythm(interval: int | str) -> Every:
        return Every(
            interval,
            epoch_steps=sampler.epoch_steps,
            phases_per_epoch=tree["train_cfg"].get("phases_per_epoch", 1),
            multiple_of=accumulate,
        )

    checkpoint = {**CHECKPOINT, **tree.get("checkpoint", {})}
    saves = rhythm(checkpoint["interval"])
    rhythms, best = [], Best()
    finite = FiniteLossHook(on_bad_loss=tree.get("on_bad_loss", "stop"))
    hooks: list[Hook] = [StepSeedHook(seed=seed), finite, SampleEventsHook(), FirstStepsHook()]
    if tree.get("ema") is not None:
        hooks.append(EmaHook(accumulate=accumulate))
    if tree.get("validation") is not None:
        validation = {**VALIDATION, **tree["validation"]}
        rhythms = [rhythm(validation["interval"])]
        names = choose(list(tree["benchmarks"]), validation["benchmarks"])
        built = build_benchmarks(tree, names, validation["max_items"])
        hooks.append(ValidationHook(benchmarks=built, every=rhythms[0], seed=seed))
        best = Best(
            metric=validation["best"],
            higher_is_better=validation["higher_is_better"],
            patience=validation["patience"],
            min_delta=validation["min_delta"],
        )
    hooks.append(MetricsHook(**tree.get("log", {}), also=tuple(rhythms)))
    hooks.append(CheckpointHook(every=saves, keep=checkpoint["keep"]))
    hooks.append(HistoryHook(rhythms=[saves, *rhythms]))
    return best, hooks
