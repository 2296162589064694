"""Checkpoints: whole or absent, trainable parameters only, nothing in them is executed.

work_dir/
  iter_1000.pth/           renamed into place when every file in it is complete
    model.safetensors      trainable parameters and persistent buffers, by name
    state.json             step, seed, schedulers, launcher, config: plain data
    model_ema.safetensors  the same with averaged parameters, where the run has an ema
    optimizer.pt           optimizer state (plain tensors and numbers)
    zero/                  DeepSpeed's shards, where DeepSpeed trained
  best.pth/                the same, of the best validation
  last_checkpoint          name of the newest folder, written last; empty in a new run
  best_checkpoint          best.pth, once there is one
  model.safetensors        the final weights: there when the run has come to its end
  model_ema.safetensors    their average
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from projects.common.checkpoint import LoadReport, load_state, read_state
from projects.common.partition import full_shape, whole

WEIGHTS, STATE, OPTIMIZER, EXTRA = "model.safetensors", "state.json", "optimizer.pt", "extra.pt"
HISTORY = "training_metrics.json"
EMA = "model_ema.safetensors"
LAST, BEST = "last_checkpoint", "best_checkpoint"
BEST_FOLDER = "best.pth"
_NAME = re.compile(r"iter_(\d+)\.pth")
_FROZEN = "frozen_parameters"
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
    for name in (WEIGHTS, EMA, BEST, HISTORY):
        (work_dir / name).unlink(missing_ok=True)
    return list(checkpoint_steps(work_dir).values())


def remove_unfinished(work_dir: Path) -> None:
    """Delete what a killed run left half-written or half-deleted."""
    for path in work_dir.iterdir():
        if path.name.startswith(_UNFINISHED):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def temporary(folder: Path) -> Path:
    return folder.with_name(f".tmp_{folder.name}")


def publish(folder: Path) -> None:
    """Rename the finished temporary of ``folder`` into place and point to it."""
    for path in sorted(temporary(folder).rglob("*")):
        _sync(path)
    if folder.exists():
        _discard(folder)
    os.rename(temporary(folder), folder)
    _sync(folder.parent)
    write_text(folder.parent / (BEST if folder.name == BEST_FOLDER else LAST), folder.name)


def drop_oldest(newest: Path, keep: int) -> None:
    """Keep ``newest`` and the ones before it, ``keep`` in all; what is beyond it is not ours."""
    steps = checkpoint_steps(newest.parent)
    own = [step for step in steps if steps[step] == newest]
    older = [step for step in steps if step <= own[0]]
    for step in older[:-keep]:
        _discard(steps[step])


def link_folder(source: Path, target: Path) -> None:
    """Publish a checkpoint folder under a second name; the files are shared, not copied."""
    partial = temporary(target)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = partial / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, copy)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, copy)
    publish(target)


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
            f"{folder} has no {STATE}: --resume needs a checkpoint folder (iter_N.pth, best.pth) "
            "of a training run; to start anew from weights use --load-from"
        )
    return json.loads((folder / STATE).read_text())


def names_to_save(module: nn.Module) -> list[str]:
    """Names of the trainable parameters and persistent buffers; shared tensors once."""
    stored = set(module.state_dict(keep_vars=True))
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    return names + [name for name, _ in module.named_buffers() if name in stored]


def weights_file(path: str | Path, *, ema: bool = False) -> Path:
    """The weights file that a path means: the file itself, a checkpoint folder, or a work_dir.

    Args:
        path: one of these.
        ema: take the averaged weights of a folder.
    """
    path = Path(path)
    name = EMA if ema else WEIGHTS
    if path.is_dir() and not (path / name).is_file():
        path = find_latest(path) or path
    if path.is_dir():
        path = path / name
    if not path.is_file():
        hint = "; --ema needs a run whose config has ema" if ema else ""
        raise FileNotFoundError(
            f"{path} does not exist: give a checkpoint folder (iter_N.pth, best.pth), a work_dir "
            f"that holds one, or a weights file{hint}"
        )
    return path


def frozen_fingerprints(module: nn.Module) -> dict[str, str]:
    """A short hash of every parameter that does not train, from its shape and 256 of its values.

    A checkpoint lacks these parameters, so whoever loads it must have the same ones; the hashes
    tell when they do not (another pretrained file, another seed, a forgotten first stage).
    """
    hashes = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            with whole([parameter]):
                values = parameter.detach().flatten()
                picked = values[:: max(len(values) // 256, 1)].float().cpu()
            digest = hashlib.blake2b(str(list(full_shape(parameter))).encode(), digest_size=6)
            digest.update(picked.numpy().tobytes())
            hashes[name] = digest.hexdigest()
    return hashes


def check_frozen(saved: dict[str, str], current: dict[str, str], where: str) -> None:
    """Compare :func:`frozen_fingerprints` of a checkpoint and a model.

    Raises:
        ValueError: some differ, with the count and the first few.
    """
    other = sorted(name for name in saved if current.get(name, saved[name]) != saved[name])
    if other:
        shown = ", ".join(other[:3])
        raise ValueError(
            f"{where} was trained beside other frozen parameters: {len(other)} of {len(saved)} "
            f"differ ({shown}{', ...' if len(other) > 3 else ''}); build the model from the same "
            "pretrained files and seed as in training"
        )


def load_model(
    model: nn.Module, path: str | Path, *, partial: bool = False, ema: bool = False
) -> LoadReport:
    """Load weights into a model, strictly.

    Args:
        model: built from the config that trained the checkpoint, with the same parts trainable.
        path: see :func:`weights_file`; the launcher that wrote it does not matter.
        partial: the file may lack any part of the model (weights to start anew from).
        ema: take the averaged weights of a folder.

    Raises:
        ValueError: names or shapes that do not line up, or frozen parameters that are not those
            of the training; nothing is loaded then.
        FileNotFoundError: no such file.
    """
    file = weights_file(path, ema=ema)
    saved = set(names_to_save(model))
    spared = ["*"] if partial else [name for name in model.state_dict() if name not in saved]
    if not partial and file.suffix == ".safetensors":
        check_frozen(read_fingerprints(file), frozen_fingerprints(model), str(file))
    return load_state(model, read_state(file), allow_missing=spared, where=str(file))


def read_fingerprints(file: Path) -> dict[str, str]:
    """What :func:`save_weights` noted in a file; empty for files of others."""
    try:
        with safe_open(file, framework="pt") as opened:
            return json.loads((opened.metadata() or {}).get(_FROZEN, "{}"))
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file: {error}") from error


def save_weights(weights: dict[str, Tensor], path: Path, frozen: dict[str, str]) -> None:
    """Write a weights file that remembers the frozen parameters it belongs to."""
    save_file(weights, path, metadata={_FROZEN: json.dumps(frozen)})


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
