"""``training_metrics.json``: the whole course of a run in one file, made from ``metrics.jsonl``.

metrics.jsonl is cut back to the checkpoint when a run is resumed, so nothing in here is doubled.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from projects.common.engine.best import Best

_NOT_MEANS = ("step", "epoch", "time", "data_time", "memory_mb")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; a file that is not there has none."""
    if not path.is_file():
        return []
    lines = path.read_text().splitlines(keepends=True)
    # only the last line can be torn, by a kill in the middle of writing it
    return [json.loads(line) for line in lines if line.endswith("\n")]


def describe_run(
    lines: list[dict[str, Any]], *, best: Best, max_steps: int, epoch_steps: float, stopped: str
) -> dict[str, Any]:
    """What training_metrics.json holds.

    Args:
        lines: of metrics.jsonl.
        best: the best validation.
        max_steps: length of the run as configured.
        epoch_steps: steps of an epoch.
        stopped: why the run ended before ``max_steps``; empty while it runs or if it did not.

    Returns:
        ``steps`` (the logged steps), ``epochs`` (means over the logged steps of each epoch),
        ``validations`` and ``best``.
    """
    steps = [line for line in lines if "validation_time" not in line]
    validations = [line for line in lines if "validation_time" in line]
    return {
        "step": steps[-1]["step"] if steps else 0,
        "max_steps": max_steps,
        "steps_per_epoch": epoch_steps,
        "stopped": stopped or None,
        "best": None
        if best.value is None
        else {"metric": best.metric, "value": best.value, "step": best.step},
        "failed_validations": best.failed,
        "validations": validations,
        "epochs": _epoch_means(steps, epoch_steps),
        "steps": steps,
    }


def _epoch_means(steps: list[dict[str, Any]], epoch_steps: float) -> list[dict[str, Any]]:
    by_epoch: dict[int, list[dict[str, Any]]] = {}
    for line in steps:
        by_epoch.setdefault(math.ceil(line["step"] / epoch_steps), []).append(line)
    return [
        {"epoch": epoch, "logged_steps": len(lines), **_means(lines)}
        for epoch, lines in by_epoch.items()
    ]


def _means(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of each number over the lines that have it: a loss belongs to the steps of its task."""
    values: dict[str, list[float]] = {}
    for line in lines:
        for key, value in line.items():
            if isinstance(value, (int, float)) and key not in _NOT_MEANS:
                values.setdefault(key, []).append(value)
    return {key: sum(own) / len(own) for key, own in values.items()}
