"""Configs: read, and turned into plain trees; ``check.py`` finds their mistakes.

model             dict(type=...), built by registry.build
train_dataloader  datasets=[dict(dataset=dict(type=...), repeat=1.0)], batch_size, collate,
                  num_workers, on_read_error ("error" or "skip"), group_by_length;
                  an entry: dataset, name, repeat or weight, batch_size
train_cfg         max_steps or max_epochs; phases_per_epoch
optim_wrapper     type, optimizer, clip_grad, accumulative_counts, paramwise_cfg, constructor
param_scheduler   list of mmengine schedulers; a float begin/end/T_max is a fraction of the run
checkpoint        interval (steps, "phase" or "epoch"), keep            log: interval
benchmarks        name -> dict(type=...)
validation        interval (as above), benchmarks, max_items, best, higher_is_better, patience,
                  min_delta
ema               decay, warmup                             watchdog: minutes
on_bad_loss       "stop" or "skip" a step whose loss is not finite
precision         "fp32" or "bf16"                          seed, data_root, load_from
sequence_parallel_size   ranks that share the tokens of a batch, 1 by default
vis_backends      mmengine's, TensorBoard by default        custom_hooks, find_unused_parameters
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.config import Config

# what the sections mean where they leave a key out
CHECKPOINT = {"interval": 1000, "keep": 2}
VALIDATION: dict[str, Any] = {
    "interval": "epoch",
    "benchmarks": None,  # all
    "max_items": None,  # whole benchmarks
    "best": None,
    "higher_is_better": True,
    "patience": None,
    "min_delta": 0.0,
}
EMA = {"decay": 0.999, "warmup": 10.0}
WATCHDOG = {"minutes": 10.0}


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read an mmengine config and apply ``--cfg-options``.

    ``data_root`` among the options is set as ``DATA_ROOT`` before the file is read, because the
    paths in the file are made from it.

    Raises:
        FileNotFoundError: no such file.
    """
    options = dict(options or {})
    if not Path(path).is_file():
        raise FileNotFoundError(f"config {path} does not exist")
    if "data_root" in options:
        os.environ["DATA_ROOT"] = str(options["data_root"])
    cfg = Config.fromfile(str(path))
    for key, value in list(cfg._cfg_dict.items()):
        # helper variables have done their work; `import os` would make a dump fail
        if key.startswith("_") or isinstance(value, ModuleType):
            del cfg._cfg_dict[key]
    cfg.merge_from_dict(options)
    return cfg


def plain(cfg: Config) -> dict[str, Any]:
    """The config as dicts and lists, with imported names replaced by what they stand for."""
    imported: set[str] = getattr(cfg, "_imported_names", set())
    return {key: _plain(cfg[key]) for key in cfg.keys() if key not in imported}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(inner) for inner in value)
    return value


def scale_schedulers(schedulers: list[dict], max_steps: int) -> list[dict]:
    """Schedulers per step, with fractions of the run turned into steps."""
    scaled = []
    for entry in schedulers:
        entry = {"by_epoch": False, **entry}
        for key in ("begin", "end", "T_max"):
            if isinstance(entry.get(key), float):
                least = 0 if key == "begin" else 1
                entry[key] = max(round(entry[key] * max_steps), least)
        scaled.append(entry)
    return scaled
