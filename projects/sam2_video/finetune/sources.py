"""The page's dataset as annotation sources: what trains and what is held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from projects.common import registry
from projects.common.registry import ConfigError
from projects.common.whole_file import whole_file
from projects.sam2_video.finetune.schema import Dataset

_DATA = "projects.sam2_video.data"
TYPES = {
    "palette": f"{_DATA}.png.PaletteSource",
    "per_object": f"{_DATA}.png.PerObjectSource",
    "folder": f"{_DATA}.folders.FolderSource",
    "image_folder": f"{_DATA}.folders.ImageFolderSource",
    "coco_video": f"{_DATA}.coco_video.CocoVideoSource",
    "coco": f"{_DATA}.coco.CocoImageSource",
    "sav": f"{_DATA}.sav.SavSource",
    "sa1b": f"{_DATA}.sa1b.Sa1bSource",
}
# how the types call their two places
_PLACES = {
    "coco_video": ("image_root", "annotation_file"),
    "coco": ("image_root", "annotation_file"),
    "sav": ("frame_root", "annotation_root"),
}


class Sources(NamedTuple):
    """Config trees; ``val`` is None where nothing is held out."""

    train: dict[str, Any]
    val: dict[str, Any] | None


def split_sources(dataset: Dataset, *, folder: Path, seed: int, keep: bool = False) -> Sources:
    """What trains and what is scored; nothing is in both.

    Args:
        folder: where lists of names go that come from ``val.fraction``.
        keep: use the lists that are there already (a run that is resumed), so that nothing moves
            from one side to the other when videos have come in since.

    Raises:
        ConfigError: too few videos for the share that is to be held out.
    """
    held = dataset.val
    whole = _source(dataset, dataset.images, dataset.annotations, dataset.names, dataset.exclude)
    if held is None:
        return Sources(whole, None)
    if held.names is not None:
        exclude = [held.names] if dataset.exclude is None else [dataset.exclude, held.names]
        train = _source(dataset, dataset.images, dataset.annotations, dataset.names, exclude)
        return Sources(
            train, _source(dataset, dataset.images, dataset.annotations, held.names, None)
        )
    if held.fraction is None:
        images = held.images or dataset.images
        return Sources(whole, _source(dataset, images, held.annotations or dataset.annotations))
    lists = folder / "train.txt", folder / "val.txt"
    if not keep or not all(path.is_file() for path in lists):
        _write_split(whole, held.fraction, seed, *lists)
    train, val = (
        _source(dataset, dataset.images, dataset.annotations, str(path)) for path in lists
    )
    return Sources(train, val)


def _source(
    dataset: Dataset,
    images: str,
    annotations: str | None,
    names: str | None = None,
    exclude: str | list[str] | None = None,
) -> dict[str, Any]:
    image_key, annotation_key = _PLACES.get(dataset.type, ("image_root", "annotation_root"))
    tree: dict[str, Any] = {"type": TYPES[dataset.type], image_key: images}
    if annotations is not None:
        tree[annotation_key] = annotations
    if dataset.type == "sav":
        tree["kind"] = dataset.sav_masks
    if dataset.type == "coco_video" and dataset.track_field is not None:
        tree["track_field"] = dataset.track_field
    if names is not None:
        tree["list_file"] = names
    if exclude:
        tree["exclude_file"] = exclude
    return tree


def _write_split(
    source: dict[str, Any], fraction: float, seed: int, train_file: Path, val_file: Path
) -> None:
    names = registry.build(source).names
    count = max(1, round(fraction * len(names)))
    if count >= len(names):
        raise ConfigError(
            f"dataset.val.fraction: {fraction} of {len(names)} videos leaves none to train on; "
            "give a smaller share or more videos"
        )
    held = set(np.random.default_rng(seed).permutation(len(names))[:count].tolist())
    for path, wanted in ((val_file, True), (train_file, False)):
        chosen = [name for number, name in enumerate(names) if (number in held) == wanted]
        with whole_file(path) as partial:
            partial.write_text("\n".join(chosen) + "\n", encoding="utf-8")
