"""From the options of ``train_sav.py`` to a whole config, and every mistake in them."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from projects.common.engine.check import check_config
from projects.common.engine.checkpoints import checkpoint_steps
from projects.common.engine.config import load_config, plain
from projects.common.registry import ConfigError, build
from projects.sam2_video.pretrained import read_sam2_state, weights_kind

CONFIGS = Path(__file__).resolve().parents[1] / "sam2_video" / "configs"
SHORT = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
NAME = "train_sav.py"  # of the config in the experiment dir


def prepare(options: argparse.Namespace) -> tuple[Config | None, list[str]]:
    """Make the config of a run and look for mistakes everywhere.

    Returns:
        The config, None where it could not even be made, and all mistakes.
    """
    size, found = _model_size(options)
    found += _number_mistakes(options) + _path_mistakes(options)
    found += _machine_mistakes(options) + _experiment_mistakes(options)
    # without a size there is a mistake already; further ones show in the config of any size
    path = options.model_cfg or CONFIGS / f"sam2.1_hiera_{SHORT[size or 'tiny']}_sav_finetune.py"
    if not path.is_file():
        return None, found
    cfg = load_config(path)
    _set_model(cfg, options, size)
    _set_data(cfg, options)
    _set_validation(cfg, options)
    _set_run(cfg, options)
    cfg.merge_from_dict(options.cfg_options)
    found += _config_mistakes(cfg, options)
    return cfg, found or _source_mistakes(cfg)


# ---- the config -----------------------------------------------------------------------------


def _set_model(cfg: Config, options: argparse.Namespace, size: str | None) -> None:
    sam2 = cfg.model.sam2
    sam2.checkpoint = str(options.checkpoint.absolute())
    if size is not None:
        sam2.size = size
    if options.image_size is not None:
        sam2.image_size = options.image_size


def _set_data(cfg: Config, options: argparse.Namespace) -> None:
    """One dataset with the sampler and the transforms of the config's longest clips."""
    entries = [entry.dataset for entry in cfg.train_dataloader.datasets]
    dataset = max(entries, key=lambda entry: entry.sampler.num_frames)
    dataset.source = dict(
        type="projects.sam2_video.data.sav.SavSource",
        annotation_root=str(options.train_annotations.absolute()),
        frame_root=str(options.train_frames.absolute()),
        list_file=_absolute(options.file_list),
        kind=options.annotation_kind,
        ann_every=options.ann_every,
    )
    _override(dataset.sampler, num_frames=options.num_frames, max_objects=options.max_objects)
    if options.image_size is not None:
        for transform in dataset.transforms:
            if "size" in transform:
                transform.size = options.image_size
    loader = cfg.train_dataloader
    loader.datasets = [dict(dataset=dataset)]
    _override(loader, batch_size=options.batch_size, num_workers=options.num_workers)


def _set_validation(cfg: Config, options: argparse.Namespace) -> None:
    for key in ("benchmarks", "validation"):
        cfg.pop(key, None)
    if options.val_frames is None or options.val_annotations is None:
        return
    source = dict(
        type="projects.sam2_video.data.png.PerObjectSource",
        image_root=str(options.val_frames.absolute()),
        annotation_root=str(options.val_annotations.absolute()),
        list_file=_absolute(options.val_list),
    )
    benchmark = dict(type="projects.sam2_video.evaluation.vos.VosBenchmark", source=source)
    cfg.benchmarks = dict(val=benchmark)
    cfg.validation = dict(interval="epoch", benchmarks=["val"], best="val/J&F")


def _set_run(cfg: Config, options: argparse.Namespace) -> None:
    if options.epochs is not None:
        cfg.train_cfg = dict(max_epochs=options.epochs)
    if options.seed is not None:
        cfg.seed = options.seed


def _override(section: dict[str, Any], **values: Any) -> None:
    section.update({key: value for key, value in values.items() if value is not None})


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


# ---- mistakes -------------------------------------------------------------------------------


def _model_size(options: argparse.Namespace) -> tuple[str | None, list[str]]:
    """The size that is asked for, or else the checkpoint's."""
    asked = options.model_size
    try:
        kind = weights_kind(read_sam2_state(options.checkpoint))
    except (FileNotFoundError, ValueError) as error:
        return asked, [f"--checkpoint: {error}"]
    if kind is None or kind.size is None:
        return asked, [
            f"--checkpoint: {options.checkpoint} is not a whole SAM 2 of a released size"
        ]
    if asked not in (None, kind.size):
        return asked, [
            f"--checkpoint: {options.checkpoint} is of size {kind.size!r}, --model-size says "
            f"{asked!r}"
        ]
    return kind.size, []


def _number_mistakes(options: argparse.Namespace) -> list[str]:
    names = (
        "gpus",
        "batch_size",
        "epochs",
        "num_frames",
        "max_objects",
        "num_nodes",
        "ann_every",
    )
    found = [
        f"--{name.replace('_', '-')}: {getattr(options, name)} must be at least 1"
        for name in names
        if getattr(options, name) is not None and getattr(options, name) < 1
    ]
    for name in ("num_workers", "seed"):
        value = getattr(options, name)
        if value is not None and value < 0:
            found.append(f"--{name.replace('_', '-')}: {value} must be at least 0")
    if options.image_size is not None and (options.image_size < 32 or options.image_size % 32):
        found.append(f"--image-size: {options.image_size} is not a positive multiple of 32")
    return found


def _path_mistakes(options: argparse.Namespace) -> list[str]:
    found = []
    for name in ("train_frames", "train_annotations", "val_frames", "val_annotations"):
        path = getattr(options, name)
        if path is not None and not path.is_dir():
            found.append(f"--{name.replace('_', '-')}: folder {path} does not exist")
    for name in ("file_list", "val_list", "model_cfg"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            found.append(f"--{name.replace('_', '-')}: file {path} does not exist")
    if (options.val_frames is None) != (options.val_annotations is None):
        found.append("--val-frames and --val-annotations: give both of them, or none")
    elif options.val_list is not None and options.val_frames is None:
        found.append("--val-list: chooses among --val-frames, which is not given")
    return found


def _machine_mistakes(options: argparse.Namespace) -> list[str]:
    if options.use_cluster:
        if shutil.which("srun") is None:
            return ["--use-cluster: there is no srun on this machine; start it on a login node"]
        return []
    found = [
        f"--{name}: belongs to a cluster; give --use-cluster 1 too"
        for name in ("partition", "account", "qos")
        if getattr(options, name) is not None
    ]
    if options.num_nodes > 1:
        found.append(
            "--num-nodes: several nodes are started by --use-cluster 1; without SLURM start "
            "tools/dist.sh on every node (NNODES, NODE_RANK, MASTER_ADDR)"
        )
    visible = torch.cuda.device_count()
    if 0 < visible < options.gpus:
        found.append(f"--gpus: {options.gpus} are asked for, this machine shows {visible}")
    return found


def _experiment_mistakes(options: argparse.Namespace) -> list[str]:
    folder = options.experiment_dir
    if folder.exists() and not folder.is_dir():
        return [f"--experiment-dir: {folder} is a file"]
    earlier = checkpoint_steps(folder) if folder.is_dir() else {}
    if earlier and not options.resume:
        return [
            f"--experiment-dir: {folder} holds checkpoints of an earlier run (step "
            f"{max(earlier)}); go on with it by --resume, or give another folder"
        ]
    if options.resume and not earlier and not options.use_cluster:
        return [f"--resume: {folder} holds no checkpoint to go on with"]
    return []


def _config_mistakes(cfg: Config, options: argparse.Namespace) -> list[str]:
    """Of the whole config, without files that the options' own checks have named already."""
    named = [str(value.absolute()) for value in vars(options).values() if isinstance(value, Path)]
    try:
        check_config(plain(cfg))
    except ConfigError as error:
        lines = str(error).split("\n  ")[1:]
        return [line for line in lines if not any(f" {path} does" in line for path in named)]
    return []


def _source_mistakes(cfg: Config) -> list[str]:
    """Videos and annotations that are not there or do not belong together."""
    tree = plain(cfg)
    sources = {"train": tree["train_dataloader"]["datasets"][0]["dataset"]["source"]}
    if "val" in tree.get("benchmarks", {}):
        sources["val"] = tree["benchmarks"]["val"]["source"]
    found = []
    for name, source in sources.items():
        try:
            build(source)[0]  # reads one annotation and looks at its frames
        except (FileNotFoundError, ValueError) as error:
            found.append(f"--{name}-annotations: {error}")
    return found
