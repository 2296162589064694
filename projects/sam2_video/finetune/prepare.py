"""From a page and the command line to a folder that can be trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from projects.common import registry
from projects.common.engine import checkpoints
from projects.common.engine.check import check_config
from projects.common.registry import raise_mistakes
from projects.sam2_video.data.sources import AnnotationSource
from projects.sam2_video.finetune.check import check_page
from projects.sam2_video.finetune.schema import Dataset, Page
from projects.sam2_video.finetune.sources import Sources, split_sources
from projects.sam2_video.finetune.translate import config_tree
from projects.sam2_video.finetune.yaml_page import YamlPage, dump_page

LEAST_FRAMES = 3  # of a video that is scored: the first and the last annotated one do not count
PAGE, CONFIG, SPLITS = "finetune.yaml", "config.py", "splits"
DEBUG_STEPS = 2
_DEBUG = {
    "trainer.max_epochs": None,
    "trainer.max_steps": DEBUG_STEPS,
    "trainer.accumulate": 1,
    "trainer.checkpoint_interval": DEBUG_STEPS,
    "trainer.val_interval": DEBUG_STEPS,
    "trainer.log_interval": 1,
    "trainer.devices": 1,
    "trainer.workers": 0,
    "trainer.tensorboard": False,
    "trainer.wandb": None,
}


class Prepared(NamedTuple):
    page: Page
    output: Path
    config: Path
    videos: int
    held_out: int


def with_overrides(page: YamlPage, overrides: Mapping[str, Any]) -> YamlPage:
    """The page with values of the command line, ``{"trainer.lr": 1e-4}``, in place of its own.

    A length in epochs replaces one in steps, and the other way round.
    """
    data = copy.deepcopy(page.data)
    lines = dict(page.lines)
    for key, value in overrides.items():
        *sections, last = key.split(".")
        place = data
        for name in sections:
            if not isinstance(place.get(name), dict):
                place[name] = {}
            place = place[name]
        place[last] = value
        lines.pop(tuple(key.split(".")), None)  # no line of the page says this
    for key, other in (("max_steps", "max_epochs"), ("max_epochs", "max_steps")):
        if overrides.get(f"trainer.{key}") is not None and f"trainer.{other}" not in overrides:
            data["trainer"][other] = None
    return YamlPage(data, lines)


def for_debugging(page: YamlPage) -> YamlPage:
    """Two steps in one process, one video to score, no Weights & Biases, a folder of its own."""
    changes: dict[str, Any] = dict(_DEBUG)
    output = page.data.get("output", Page.model_fields["output"].default)
    changes["output"] = f"{output}_debug"
    dataset = page.data.get("dataset")
    if isinstance(dataset, dict) and isinstance(dataset.get("val"), dict):
        changes["dataset.val.max_videos"] = 1
    return with_overrides(page, changes)


def prepare(
    page: YamlPage,
    *,
    resume: bool = False,
    overwrite: bool = False,
    folder: Path | None = None,
) -> Prepared:
    """Check everything and write the page and the config as run into the output folder.

    Args:
        resume: go on with the run that the output folder holds.
        overwrite: an earlier run there may be forgotten (``--debug``).
        folder: write here instead (``--check`` leaves the output folder alone).

    Raises:
        ConfigError: mistakes, all at once; an output folder that is in use.
        ValueError, FileNotFoundError: data that is not what the page says.
    """
    checked = check_page(page)
    output = Path(checked.output)
    raise_mistakes(_folder_mistakes(output, resume, overwrite) + _device_mistakes(checked))
    folder = folder or output
    sources = split_sources(
        checked.dataset, folder=folder / SPLITS, seed=checked.trainer.seed, keep=resume
    )
    videos, held_out = _count(checked.dataset, sources)
    tree = config_tree(checked, sources, name=output.name)
    check_config(tree)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_text(folder / PAGE, dump_page(checked.model_dump()))
    text = f'"""Made from {PAGE} by tools/finetune_sam2.py."""\n\n{Config(tree).pretty_text}'
    checkpoints.write_text(folder / CONFIG, text)
    return Prepared(checked, output, folder / CONFIG, videos, held_out)


def _count(dataset: Dataset, sources: Sources) -> tuple[int, int]:
    """Building a source finds what is missing on disk, before several processes do."""
    train, val = (None if tree is None else registry.build(tree) for tree in sources)
    mistakes = []
    if val is not None:
        both = sorted(set(train.names) & set(val.names)) if _same_place(sources) else []
        if both:
            mistakes.append(f"dataset.val: {len(both)} videos are trained on too: {both[:5]}")
        mistakes += [] if dataset.one_frame else _too_short(val)
    raise_mistakes(mistakes)
    return len(train), 0 if val is None else len(val)


def _too_short(val: AnnotationSource) -> list[str]:
    """Videos that validation could not score, found before the training and not in it."""
    videos = [val[index] for index in range(len(val))]
    short = [video.name for video in videos if video.num_frames < LEAST_FRAMES]
    if not short:
        return []
    return [
        f"dataset.val: {len(short)} of {len(videos)} videos have fewer than {LEAST_FRAMES} "
        "annotated frames, none is left to score without the first and the last; name them in "
        f"the file of dataset.exclude: {', '.join(short[:10])}"
    ]


def _same_place(sources: Sources) -> bool:
    """Whether equal names mean equal videos."""
    assert sources.val is not None
    lists = ("list_file", "exclude_file")
    train, val = (
        {key: value for key, value in tree.items() if key not in lists}
        for tree in (sources.train, sources.val)
    )
    return train == val


def _folder_mistakes(output: Path, resume: bool, overwrite: bool) -> list[str]:
    held = checkpoints.checkpoint_steps(output) if output.is_dir() else {}
    if held and not resume and not overwrite:
        return [
            f"output: {output} holds a run (newest checkpoint: step {max(held)}); go on with "
            "--resume, or name another folder with --output"
        ]
    return []


def _device_mistakes(page: Page) -> list[str]:
    there = torch.cuda.device_count()
    if there and page.trainer.devices > there:
        return [f"trainer.devices: {page.trainer.devices} are wanted, {there} GPUs are visible"]
    return []
