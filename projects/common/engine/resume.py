"""Everything a run needs to go on as if it had not been interrupted: save it, restore it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer, MessageHub
from safetensors import SafetensorError

from projects.common.engine import checkpoints
from projects.common.engine.distributed import barrier, get_rank
from projects.common.engine.ema import restore_ema

_HISTORY = 100  # newest values per logged scalar that are kept over a resume


def save_training(runner: Any, folder: Path, *, step: int) -> None:
    """Write a checkpoint folder whole or not at all; every rank must call it.

    Raises:
        OSError: it could not be written, and what there was of it is deleted; says what to do.
    """
    with _explained(folder):
        _save_training(runner, folder, step)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Libraries tell of a full disk as errors of many types, few of which say so."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(checkpoints.temporary(folder), ignore_errors=True)
        newest = checkpoints.find_latest(folder.parent)
        free = shutil.disk_usage(folder.parent).free / 2**20
        raise OSError(
            f"{folder} could not be saved ({error}); {free:,.0f} MiB are free there now. "
            + (f"{newest} is whole: make room and --resume" if newest else "Nothing is saved yet")
        ) from error


def _save_training(runner: Any, folder: Path, step: int) -> None:
    partial = checkpoints.temporary(folder)
    if get_rank() == 0:
        checkpoints.remove_unfinished(folder.parent)
        partial.mkdir()
    barrier()
    runner.strategy.save_optimizer(partial)
    weights = runner.strategy.saved_tensors()
    extra: dict[str, Any] = {}
    runner.call_hook("before_save_checkpoint", checkpoint=extra)  # custom hooks with a state
    if get_rank() == 0:
        checkpoints.save_weights(weights, partial / checkpoints.WEIGHTS, runner.frozen)
        if runner.ema is not None:
            averages = runner.ema.saved_tensors(weights)
            checkpoints.save_weights(averages, partial / checkpoints.EMA, runner.frozen)
        if extra:
            torch.save(extra, partial / checkpoints.EXTRA)
        state = _training_state(runner, step)
        (partial / checkpoints.STATE).write_text(json.dumps(state, indent=1))
    barrier()  # all shards are complete
    if get_rank() == 0:
        checkpoints.publish(folder)
    barrier()


def restore_training(runner: Any, folder: Path) -> int:
    """Load a checkpoint folder into a prepared runner; returns the step it stands at.

    Raises:
        ValueError: saved by another launcher, or beside other frozen parameters.
        FileNotFoundError: not a checkpoint folder.
    """
    state = checkpoints.read_training_state(folder)
    check_launcher(state["launcher"], runner.strategy.kind, folder)
    saved = checkpoints.read_fingerprints(folder / checkpoints.WEIGHTS)
    checkpoints.check_frozen(saved, runner.frozen, str(folder))
    runner.strategy.load_training(folder)
    for scheduler, saved in zip(_schedulers(runner), state["schedulers"], strict=True):
        scheduler.load_state_dict(saved)
    _restore_hub(runner.message_hub, state["message_hub"])
    if (folder / checkpoints.EXTRA).is_file():
        extra = torch.load(folder / checkpoints.EXTRA, map_location="cpu", weights_only=True)
        runner.call_hook("after_load_checkpoint", checkpoint=extra)
    runner.strategy.resume_counts(state["step"])
    for news in (
        restore_ema(runner.ema, folder, state.get("ema")),
        _restore_best(runner, folder, state.get("best")),
        _compare_mixtures(state["mixture"], runner.train_dataloader.batch_sampler.mixture, folder),
    ):
        if news:
            runner.logger.warning(news)
    return state["step"]


def _restore_best(runner: Any, folder: Path, state: dict[str, Any] | None) -> str:
    """Go on with the best score of a checkpoint; returns what the user should know."""
    best = runner.best
    if best.metric is None or not state or state["metric"] is None:
        return ""
    if not best.restore(state):
        return f"{folder} looked for the best {state['metric']}, this run looks for {best.metric}"
    if best.step and not (Path(runner.work_dir) / checkpoints.BEST).is_file():
        return (
            f"{runner.work_dir} lacks the best checkpoint, of step {best.step} with {best.metric} "
            f"{best.value:.4f}: a new one is saved when a validation is better"
        )
    return ""


def _compare_mixtures(saved: list[dict], current: list[dict], folder: Path) -> str:
    """What differs between the data of a checkpoint and of this run; empty for nothing."""
    changes = []
    if len(saved) != len(current):
        changes.append(f"{len(saved)} datasets are now {len(current)}")
    for number, (before, now) in enumerate(zip(saved, current, strict=False)):
        changes += [
            f"dataset {number}: {key} {before[key]} is now {now[key]}"
            for key in before
            if before[key] != now[key]
        ]
    if not changes:
        return ""
    return (
        f"{folder} was trained on other data ({'; '.join(changes)}): training goes on, but in "
        "another order of the data"
    )


def check_launcher(saved: dict[str, Any], current: dict[str, Any], folder: Path) -> None:
    """Optimizer states are cut differently by each launcher.

    Raises:
        ValueError: they do not fit, with both.
    """
    if saved != current:
        raise ValueError(
            f"{folder} was saved by {_describe(saved)} and this run is {_describe(current)}: "
            "resume with the same launcher, or start anew from its weights with --load-from"
        )


def _describe(kind: dict[str, Any]) -> str:
    if kind["engine"] == "plain":
        return "a run without DeepSpeed"
    return f"DeepSpeed ZeRO-{kind['zero_stage']} in {kind['world_size']} processes"


def _training_state(runner: Any, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "max_steps": runner.max_iters,
        "seed": runner.seed,
        "mixture": runner.train_dataloader.batch_sampler.mixture,
        "best": runner.best.state(),
        "ema": None if runner.ema is None else {"updates": runner.ema.updates},
        "launcher": runner.strategy.kind,
        "schedulers": [scheduler.state_dict() for scheduler in _schedulers(runner)],
        "message_hub": _hub_state(runner.message_hub),
        "config": runner.cfg.pretty_text,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _schedulers(runner: Any) -> list[Any]:
    return runner.param_schedulers or []


def _hub_state(hub: MessageHub) -> dict[str, list[float]]:
    return {key: buffer.data[0][-_HISTORY:].tolist() for key, buffer in hub.log_scalars.items()}


def _restore_hub(hub: MessageHub, state: dict[str, list[float]]) -> None:
    for key, values in state.items():
        hub.log_scalars[key] = HistoryBuffer(values, [1] * len(values))
