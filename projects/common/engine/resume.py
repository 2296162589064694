"""Everything a run needs to go on as if it had not been interrupted: save it, restore it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer, MessageHub

from projects.common.engine import checkpoints
from projects.common.engine.distributed import barrier, get_rank, get_world_size

_HISTORY = 100  # newest values per logged scalar that are kept over a resume


def save_training(runner: Any, folder: Path, *, step: int, keep: int) -> None:
    """Write a checkpoint folder whole or not at all; every rank must call it."""
    partial = checkpoints.temporary(folder)
    if get_rank() == 0:
        checkpoints.remove_unfinished(folder.parent)
        partial.mkdir()
    barrier()
    runner.strategy.save_optimizer(partial)
    weights = runner.strategy.saved_tensors()
    extra: dict[str, Any] = {}
    runner.call_hook("before_save_checkpoint", checkpoint=extra)  # hooks with a state (EMA)
    if get_rank() == 0:
        checkpoints.save_weights(weights, partial / checkpoints.WEIGHTS, runner.frozen)
        if extra:
            torch.save(extra, partial / checkpoints.EXTRA)
        state = _training_state(runner, step)
        (partial / checkpoints.STATE).write_text(json.dumps(state, indent=1))
    barrier()  # all shards are complete
    if get_rank() == 0:
        checkpoints.publish(folder, keep)
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
    batch = _global_batch(runner)
    if state["global_batch"] != batch:
        runner.logger.warning(
            f"{folder} was trained with {state['global_batch']} samples a step, now it is {batch}: "
            "training goes on, but in another order of the data"
        )
    return state["step"]


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
        "global_batch": _global_batch(runner),
        "launcher": runner.strategy.kind,
        "schedulers": [scheduler.state_dict() for scheduler in _schedulers(runner)],
        "message_hub": _hub_state(runner.message_hub),
        "config": runner.cfg.pretty_text,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _global_batch(runner: Any) -> int:
    return runner.train_dataloader.batch_sampler.batch_size * get_world_size()


def _schedulers(runner: Any) -> list[Any]:
    return runner.param_schedulers or []


def _hub_state(hub: MessageHub) -> dict[str, list[float]]:
    return {key: buffer.data[0][-_HISTORY:].tolist() for key, buffer in hub.log_scalars.items()}


def _restore_hub(hub: MessageHub, state: dict[str, list[float]]) -> None:
    for key, values in state.items():
        hub.log_scalars[key] = HistoryBuffer(values, [1] * len(values))
