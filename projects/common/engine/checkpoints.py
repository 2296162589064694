"""Checkpoints: whole or absent, trainable parameters only, nothing in them is executed.

work_dir/
  iter_1000.pth/           renamed into place when every file in it is complete
    model.safetensors      trainable parameters and persistent buffers, by name
    state.json             step, seed, schedulers, launcher, config: plain data
    optimizer.pt           optimizer state (plain tensors and numbers)
    zero/                  DeepSpeed's shards, where DeepSpeed trained
  last_checkpoint          name of the newest folder, written last; empty in a new run
  model.safetensors        the final weights: there when the run has come to its end
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from projects.common.checkpoint import LoadReport, load_state, read_state

WEIGHTS, STATE, OPTIMIZER, EXTRA = "model.safetensors", "state.json", "optimizer.pt", "extra.pt"
LAST = "last_checkpoint"
_NAME = re.compile(r"iter_(\d+)\.pth")
_UNFINISHED = (".tmp_", ".old_")  # left over by a killed run


def folder_name(step: int) -> str:
    return f"iter_{step}.pth"


def checkpoint_steps(work_dir: Path) -> dict[int, Path]:
    """Whole checkpoints of a folder by step, ascending; temporaries do not count."""
    found = {}
    for path in work_dir.glob("iter_*.pth"):
        match = _NAME.fullmatch(path.name)
        if match and (path / STATE).is_file():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def find_latest(work_dir: Path) -> Path | None:
    """The newest whole checkpoint of the run, or None.

    ``last_checkpoint`` is believed; without that file (a copied folder) the highest step is taken.
    """
    if not (work_dir / LAST).is_file():
        return next(reversed(checkpoint_steps(work_dir).values()), None)
    name = (work_dir / LAST).read_text().strip()
    if not name:
        return None
    if not (work_dir / name / STATE).is_file():
        raise FileNotFoundError(
            f"{work_dir / LAST} names {name}, which is not there or not whole: delete that file to "
            "take the highest step, or give the folder to --resume"
        )
    return work_dir / name


def begin_run(work_dir: Path) -> list[Path]:
    """Make a new run's folder forget an earlier run; returns that run's checkpoints, which stay."""
    write_text(work_dir / LAST, "")
    (work_dir / WEIGHTS).unlink(missing_ok=True)
    return list(checkpoint_steps(work_dir).values())


def remove_unfinished(work_dir: Path) -> None:
    """Delete what a killed run left half-written or half-deleted."""
    for path in work_dir.iterdir():
        if path.name.startswith(_UNFINISHED):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def temporary(folder: Path) -> Path:
    return folder.with_name(f".tmp_{folder.name}")


def publish(folder: Path, keep: int) -> None:
    """Rename the finished temporary of ``folder`` into place, point to it, drop the oldest."""
    for path in sorted(temporary(folder).rglob("*")):
        _sync(path)
    if folder.exists():
        _discard(folder)
    os.rename(temporary(folder), folder)
    _sync(folder.parent)
    write_text(folder.parent / LAST, folder.name)
    steps = checkpoint_steps(folder.parent)
    own = [step for step in steps if steps[step] == folder]
    older = [step for step in steps if step <= own[0]]
    for step in older[:-keep]:
        _discard(steps[step])


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(f".tmp_{path.name}")
    partial.write_text(text)
    _sync(partial)
    os.replace(partial, path)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file whole or not at all."""
    partial = target.with_name(f".tmp_{target.name}")
    shutil.copyfile(source, partial)
    _sync(partial)
    os.replace(partial, target)


def read_training_state(folder: Path) -> dict[str, Any]:
    """The plain data of a checkpoint folder.

    Raises:
        FileNotFoundError: not a checkpoint of a training run (weights alone cannot be resumed).
    """
    if not (folder / STATE).is_file():
        raise FileNotFoundError(
            f"{folder} has no {STATE}: --resume needs a checkpoint folder (iter_N.pth) of a "
            "training run; to start anew from weights use --load-from"
        )
    return json.loads((folder / STATE).read_text())


def names_to_save(module: nn.Module) -> list[str]:
    """Names of the trainable parameters and persistent buffers; shared tensors once."""
    stored = set(module.state_dict(keep_vars=True))
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    return names + [name for name, _ in module.named_buffers() if name in stored]


def weights_file(path: str | Path) -> Path:
    """The weights file that a path means: the file itself, a checkpoint folder, or a work_dir."""
    path = Path(path)
    if path.is_dir() and not (path / WEIGHTS).is_file():
        path = find_latest(path) or path
    if path.is_dir():
        path = path / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give a checkpoint folder (iter_N.pth), a work_dir that holds "
            "one, or a weights file"
        )
    return path


def load_model(model: nn.Module, path: str | Path, *, partial: bool = False) -> LoadReport:
    """Load weights into a model, strictly.

    Args:
        model: built from the config that trained the checkpoint, with the same parts trainable.
        path: see :func:`weights_file`; the launcher that wrote it does not matter.
        partial: the file may lack any part of the model (weights to start anew from).

    Raises:
        ValueError: names or shapes that do not line up; nothing is loaded then.
        FileNotFoundError: no such file.
    """
    file = weights_file(path)
    saved = set(names_to_save(model))
    spared = ["*"] if partial else [name for name in model.state_dict() if name not in saved]
    return load_state(model, read_state(file), allow_missing=spared, where=str(file))


def _discard(path: Path) -> None:
    """Delete a folder that is never seen half-deleted under its own name."""
    doomed = path.with_name(f".old_{path.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
