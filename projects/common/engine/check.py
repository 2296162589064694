"""All mistakes of a config, found before the expensive part starts.

check_config   keys, values, files: nothing is built
check_build    the model without its weights: parts that do not go together
check_fit      that model beside the datasets
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_type_hints

import torch
from mmengine.optim import OptimWrapper

from projects.common import registry
from projects.common.engine.bad_loss import ON_BAD_LOSS
from projects.common.engine.config import CHECKPOINT, EMA, VALIDATION, WATCHDOG
from projects.common.engine.interval import UNITS
from projects.common.engine.model import PRECISIONS, TrainableModel
from projects.common.reading import ON_READ_ERROR

_KNOWN_KEYS = (
    "model",
    "train_dataloader",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "checkpoint",
    "log",
    "benchmarks",
    "validation",
    "ema",
    "watchdog",
    "on_bad_loss",
    "precision",
    "sequence_parallel_size",
    "seed",
    "data_root",
    "load_from",
    "vis_backends",
    "custom_hooks",
    "find_unused_parameters",
)
_SECTIONS = {  # section: (needed keys, further keys)
    "train_dataloader": (
        ("datasets", "batch_size", "collate"),
        ("num_workers", "on_read_error", "group_by_length"),
    ),
    "train_cfg": ((), ("max_steps", "max_epochs", "phases_per_epoch")),
    "checkpoint": ((), tuple(CHECKPOINT)),
    "validation": ((), tuple(VALIDATION)),
    "ema": ((), tuple(EMA)),
    "watchdog": ((), tuple(WATCHDOG)),
    "log": ((), ("interval",)),
    "optim_wrapper": (
        ("optimizer",),
        ("type", "clip_grad", "accumulative_counts", "paramwise_cfg", "constructor"),
    ),
}


def check_config(
    tree: dict[str, Any], *, train: bool = True, zero_stage: int = 0, processes: int | None = None
) -> None:
    """Find all mistakes before anything is built.

    Args:
        tree: of :func:`projects.common.engine.config.plain`.
        train: whether the training sections must be there.
        zero_stage: of DeepSpeed, 0 without it.
        processes: of the run; None where that is not known yet.

    Raises:
        ValueError: all mistakes, each with its key path.
    """
    needed = ("model", "train_dataloader", "train_cfg", "optim_wrapper") if train else ("model",)
    found = [f"{key}: missing" for key in needed if key not in tree]
    for name, (required, optional) in _SECTIONS.items():
        if tree.get(name) is not None:
            found += registry.key_mistakes(tree[name], required, optional, name)
    found += registry.mistakes(_checkable(tree), known=_KNOWN_KEYS)
    found += _value_mistakes(tree)
    if train:
        found += list(_rhythm_mistakes(tree))
        found += list(_validation_mistakes(tree, zero_stage))
        found += list(_sequence_mistakes(tree, processes))
    registry.raise_mistakes(found)


def check_model(tree: dict[str, Any]) -> None:
    """As :func:`check_config`, of the model alone: to convert or ask it needs no dataset.

    Raises:
        ValueError: all mistakes, each with its key path.
    """
    check_config({"model": tree["model"]} if "model" in tree else {}, train=False)


def where_to_get(error: registry.ConfigError) -> str:
    """What helps against mistakes that are files which are not there; empty where none is."""
    if registry.ABSENT not in str(error):
        return ""
    return "\nwhere to get it: `bash run.sh data` lists data, pretrained_models/README.md weights"


def check_build(tree: dict[str, Any]) -> TrainableModel | None:
    """Build the model without its weights, where it can be, before any data is read.

    Folders of weights are checked by their headers. The parts are built one by one, so that the
    mistakes of all are told at once.

    Returns:
        The model on the meta device; None of a kind that needs its weights to be built.

    Raises:
        ValueError: all mistakes, each with its key path.
    """
    section = dict(tree["model"])
    target = registry.resolve(section.pop("type"))
    if not getattr(_made_by(target), "builds_without_weights", False):
        return None
    found, parts, model = [], {}, None
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*to a meta parameter")  # nothing to copy to
        for key, value in section.items():
            try:
                parts[key] = registry.build(value)
            except (ValueError, OSError) as error:
                found.append(f"model.{key}: {error}")
        if not found:
            try:
                model = target(**parts)
            except (ValueError, OSError) as error:
                found.append(f"model: {error}")
    registry.raise_mistakes(found)
    return model


def check_fit(model: TrainableModel, names: Sequence[str], datasets: Sequence[Any]) -> None:
    """Find datasets that a model (without weights) cannot train on.

    Raises:
        ValueError: all misfits, each with its dataset.
    """
    registry.raise_mistakes(
        [
            f"train_dataloader, dataset {name}: {text}"
            for name, dataset in zip(names, datasets, strict=True)
            for text in model.misfits(dataset)
        ]
    )


def _made_by(target: Callable) -> Any:
    """The class of what a config's ``type`` gives: itself, or what a function says it returns."""
    return target if isinstance(target, type) else get_type_hints(target).get("return")


def _checkable(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with the arguments that the engine adds later: parameters, optimizers, folders."""
    tree = dict(tree)
    optim = {k: v for k, v in tree.get("optim_wrapper", {}).items() if k in ("optimizer",)}
    if isinstance(optim.get("optimizer"), dict):
        optim["optimizer"] = {"params": [], **optim["optimizer"]}
        tree["optim_wrapper"] = optim
    schedulers = tree.get("param_scheduler", [])
    if isinstance(schedulers, list):
        tree["param_scheduler"] = [{"optimizer": None, **entry} for entry in schedulers]
    backends = tree.get("vis_backends", [])
    if isinstance(backends, list):
        tree["vis_backends"] = [{"save_dir": "", **entry} for entry in backends]
    return tree


def _value_mistakes(tree: dict[str, Any]) -> list[str]:
    found = []
    if tree.get("precision", "fp32") not in PRECISIONS:
        found.append(f"precision: {tree['precision']!r} is none of {', '.join(PRECISIONS)}")
    length = tree.get("train_cfg", {})
    if "train_cfg" in tree and ("max_steps" in length) == ("max_epochs" in length):
        found.append("train_cfg: give max_steps or max_epochs, one of them")
    found += _loader_mistakes(tree.get("train_dataloader", {}))
    found += _bad_loss_mistakes(tree)
    return found


def _bad_loss_mistakes(tree: dict[str, Any]) -> Iterator[str]:
    choice, optim = tree.get("on_bad_loss", "stop"), tree.get("optim_wrapper", {})
    if choice not in ON_BAD_LOSS:
        yield f"on_bad_loss: {choice!r} is none of {', '.join(ON_BAD_LOSS)}"
    if choice != "skip":
        return
    if optim.get("accumulative_counts", 1) != 1:
        yield (
            "on_bad_loss: 'skip' would leave half of an update in the gradients that "
            "optim_wrapper.accumulative_counts gathers; say 'stop', or gather none"
        )
    if optim.get("type") not in (None, "OptimWrapper", OptimWrapper):
        yield f"on_bad_loss: 'skip' goes with OptimWrapper, not with {optim['type']!r}"


def _loader_mistakes(section: dict[str, Any]) -> list[str]:
    found = []
    entries = section.get("datasets", [])
    weighted = sum("weight" in entry for entry in entries)
    for number, entry in enumerate(entries):
        where = f"train_dataloader.datasets[{number}]"
        further = ("name", "repeat", "weight", "batch_size")
        found += registry.key_mistakes(entry, ("dataset",), further, where)
        if weighted and ("weight" not in entry or "repeat" in entry):
            found.append(f"{where}: give every entry a weight, or none; repeat is the other way")
    names = [entry["name"] for entry in entries if "name" in entry]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(f"train_dataloader.datasets: {names.count(name)} entries are named {name!r}")
    if section.get("on_read_error", "error") not in ON_READ_ERROR:
        found.append(
            f"train_dataloader.on_read_error: {section['on_read_error']!r} is none of "
            f"{', '.join(ON_READ_ERROR)}"
        )
    collate = section.get("collate")
    if isinstance(collate, str):
        try:
            registry.resolve(collate)
        except ValueError as error:
            found.append(f"train_dataloader.collate: {error}")
    return found


def _rhythm_mistakes(tree: dict[str, Any]) -> Iterator[str]:
    """Intervals that are none, or that end between two updates of the optimizer."""
    accumulate = tree.get("optim_wrapper", {}).get("accumulative_counts", 1)
    length = tree.get("train_cfg", {})
    rhythms = {"checkpoint.interval": {**CHECKPOINT, **tree.get("checkpoint", {})}["interval"]}
    if tree.get("validation") is not None:
        rhythms["validation.interval"] = {**VALIDATION, **tree["validation"]}["interval"]
    if "max_steps" in length:
        rhythms["train_cfg.max_steps"] = length["max_steps"]
    for key, value in rhythms.items():
        if isinstance(value, str) and value in UNITS and key != "train_cfg.max_steps":
            continue
        if not _is_count(value):
            units = "" if key == "train_cfg.max_steps" else ", 'phase' or 'epoch'"
            yield f"{key}: {value!r} is no number of steps (1 or more){units}"
        elif value % accumulate:
            yield (
                f"{key}: {value} is no multiple of optim_wrapper.accumulative_counts "
                f"{accumulate}, half-accumulated gradients would be lost"
            )
    for key, value in (
        ("train_cfg.phases_per_epoch", length.get("phases_per_epoch", 1)),
        ("checkpoint.keep", tree.get("checkpoint", {}).get("keep", 1)),
    ):
        if not _is_count(value):
            yield f"{key}: {value!r} is no whole number from 1 on"


def _validation_mistakes(tree: dict[str, Any], zero_stage: int) -> Iterator[str]:
    ema = {**EMA, **(tree.get("ema") or {})}
    if not 0 < ema["decay"] < 1 or ema["warmup"] < 0:
        yield f"ema: decay {ema['decay']} must lie in (0, 1), warmup {ema['warmup']} from 0 on"
    minutes = {**WATCHDOG, **(tree.get("watchdog") or {})}["minutes"]
    if minutes is not None and minutes <= 0:
        yield f"watchdog.minutes: {minutes} must be positive, or None for no watchdog"
    if zero_stage == 3:
        for key in ("ema", "validation"):
            if tree.get(key) is not None:
                yield (
                    f"{key}: not with ZeRO-3, where no rank holds the whole model; use ZeRO-2, or "
                    "leave it out and evaluate checkpoints with tools/test.py"
                )
    if tree.get("validation") is None:
        return
    validation = {**VALIDATION, **tree["validation"]}
    known = list(tree.get("benchmarks", {}))
    names = validation["benchmarks"] if validation["benchmarks"] is not None else known
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        yield (
            f"validation.benchmarks: {', '.join(unknown) or 'none'} chosen, the config's "
            f"benchmarks are {', '.join(known) or 'none'}"
        )
    best = validation["best"]
    if best is not None and best.split("/")[0] not in names:
        yield f"validation.best: {best!r} is no '<benchmark>/<metric>' of {', '.join(names)}"
    elif best is not None:
        yield from _metric_mistakes(best, tree["benchmarks"])
    if best is None and validation["patience"] is not None:
        yield "validation.patience: needs validation.best, the score that is watched"
    for key in ("patience", "max_items"):
        if validation[key] is not None and not _is_count(validation[key]):
            yield f"validation.{key}: {validation[key]!r} is no whole number from 1 on"
    if validation["min_delta"] < 0:
        yield f"validation.min_delta: {validation['min_delta']} must not be negative"


def _sequence_mistakes(tree: dict[str, Any], processes: int | None) -> Iterator[str]:
    size = tree.get("sequence_parallel_size", 1)
    if not _is_count(size):
        yield f"sequence_parallel_size: {size!r} is no whole number from 1 on"
        return
    if processes is not None and processes % size:
        yield f"sequence_parallel_size: {size} does not divide the {processes} processes of the run"
    target = registry.find(tree.get("model", {}).get("type"))
    if size == 1 or target is None:
        return
    made = _made_by(target)
    if not getattr(made, "shares_sequences", False):
        yield f"sequence_parallel_size: {getattr(made, '__name__', made)} has no text to share out"


def _metric_mistakes(best: str, benchmarks: dict[str, Any]) -> Iterator[str]:
    """A metric that its benchmark does not give, where the benchmark says which it gives."""
    name, _, metric = best.partition("/")
    target = benchmarks.get(name, {}).get("type", name)
    metrics = getattr(registry.find(target), "metrics", None)
    if metrics is not None and metric.partition("[")[0] not in metrics:  # "[...]": a break-down
        given = ", ".join(f"{name}/{other}" for other in metrics)
        yield f"validation.best: {best!r} is no score of this benchmark, which gives {given}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
