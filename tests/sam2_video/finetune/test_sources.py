"""Every dataset type of the page becomes data; what is held out is not trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from projects.common import registry
from projects.common.engine.config import load_config, plain
from projects.common.registry import ConfigError
from projects.sam2_video.finetune.prepare import prepare, with_overrides
from projects.sam2_video.finetune.schema import Dataset
from projects.sam2_video.finetune.sources import split_sources
from projects.sam2_video.finetune.yaml_page import read_page
from tests.sam2_video.finetune.conftest import FRAMES, SIDE, VIDEOS, scene, write_videos


def rle(mask: np.ndarray) -> dict:
    coded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_per_object(root: Path) -> dict:
    for video in range(VIDEOS):
        for frame in range(FRAMES):
            image, ids = scene(video, frame)
            save(root / "images" / f"v{video}" / f"{frame:05d}.jpg", image)
            for key in (1, 2):
                path = root / "masks" / f"v{video}" / f"{key:03d}" / f"{frame:05d}.png"
                save(path, (ids == key).astype(np.uint8) * 255)
    return {"images": root / "images", "annotations": root / "masks"}


def write_nested_folder(root: Path) -> dict:
    for video in range(VIDEOS):
        for frame in range(FRAMES):
            image, ids = scene(video, frame)
            save(root / f"v{video}" / "images" / f"{frame:05d}.jpg", image)
            save(root / f"v{video}" / "masks" / f"{frame:05d}.png", (ids == 1).astype(np.uint8))
    return {"images": root}


def write_image_folder(root: Path) -> dict:
    for video in range(VIDEOS):
        image, ids = scene(video, 0)
        save(root / "images" / f"v{video}.jpg", image)
        save(root / "masks" / f"v{video}.png", ids)
    return {"images": root / "images", "annotations": root / "masks"}


def write_coco(root: Path, *, frames: int) -> dict:
    """Images with their masks; with more than one frame a COCO video json."""
    images, annotations = [], []
    for video in range(VIDEOS):
        for frame in range(frames):
            image, ids = scene(video, frame)
            save(root / "images" / f"v{video}" / f"{frame}.jpg", image)
            number = video * frames + frame
            entry = {"id": number, "file_name": f"v{video}/{frame}.jpg", "width": SIDE}
            entry |= {"height": SIDE, "video_id": f"v{video}", "order_in_video": frame}
            images.append(entry)
            for key in (1, 2):
                mask = rle(ids == key)
                entry = {"id": 10 * number + key, "image_id": number, "segmentation": mask}
                annotations.append(entry | {"track_id": key, "area": 256, "category_id": 1})
    path = root / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return {"images": root / "images", "annotations": path}


def write_sav(root: Path) -> dict:
    for video in range(VIDEOS):
        scenes = [scene(video, frame) for frame in range(FRAMES)]
        for frame, (image, _) in enumerate(scenes):
            save(root / f"v{video}" / f"{4 * frame:05d}.jpg", image)
        masklet = [[rle(ids == 1), rle(ids == 2)] for _, ids in scenes]
        (root / f"v{video}_manual.json").write_text(json.dumps({"masklet": masklet}))
    return {"images": root, "annotations": root}


def write_sa1b(root: Path) -> dict:
    for video in range(VIDEOS):
        image, ids = scene(video, 0)
        save(root / f"sa_{video}.jpg", image)
        annotations = [
            {"segmentation": rle(ids == key), "area": 256, "predicted_iou": 1, "stability_score": 1}
            for key in (1, 2)
        ]
        (root / f"sa_{video}.json").write_text(json.dumps({"annotations": annotations}))
    return {"images": root}


def write_folder(root: Path) -> dict:
    images, masks = write_videos(root, binary=True)
    return {"images": images, "annotations": masks}


WRITERS = {
    "folder": write_folder,
    "nested folder": write_nested_folder,
    "image_folder": write_image_folder,
    "per_object": write_per_object,
    "coco_video": lambda root: write_coco(root, frames=FRAMES),
    "coco": lambda root: write_coco(root, frames=1),
    "sav": write_sav,
    "sa1b": write_sa1b,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_type_becomes_clips_and_a_benchmark(name, tmp_path, tiny_page):
    """The config that is written builds, reads a clip, and has the benchmark that best names."""
    kind = name.split()[-1]
    data = tmp_path / "data"
    data.mkdir()
    places = {key: str(path) for key, path in WRITERS[name](data).items()}
    page = read_page(tiny_page(dataset={"type": kind, "frames": None, "annotations": None}))
    changes = {f"dataset.{key}": value for key, value in places.items()}
    if kind not in ("image_folder", "coco", "sa1b"):
        changes["dataset.frames"] = 2
    run = prepare(with_overrides(page, changes))
    assert (run.videos, run.held_out) == (3, 1)

    tree = plain(load_config(run.config))
    dataset = registry.build(tree["train_dataloader"]["datasets"][0]["dataset"])
    clip = dataset[0]
    frames = 1 if kind in ("image_folder", "coco", "sa1b") else 2
    assert clip.frames.shape == (frames, 3, 32, 32)
    assert clip.masks.flatten(2).any(2)[0].all()
    benchmark = registry.build(tree["benchmarks"]["val"])
    assert len(benchmark) == 1
    model = registry.build(tree["model"])
    records = benchmark.predict(model, 0)
    assert len(records) == (1 if kind == "folder" else 2)  # binary masks know one object
    scores = benchmark.summarise(records)
    assert tree["validation"]["best"].removeprefix("val/") in scores


def dataset(videos, **changes) -> Dataset:
    images, masks = videos
    given = {"type": "palette", "images": str(images), "annotations": str(masks)} | changes
    return Dataset.model_validate(given)


def names(tree: dict) -> set[str]:
    return set(registry.build(tree).names)


def test_a_share_is_held_out_by_the_seed(videos, tmp_path):
    given = dataset(videos, val={"fraction": 0.5})
    splits = {}
    for seed in range(6):
        train, val = split_sources(given, folder=tmp_path / str(seed), seed=seed)
        assert names(train) | names(val) == {f"v{i}" for i in range(VIDEOS)}
        assert not names(train) & names(val) and len(names(val)) == 2
        splits[seed] = frozenset(names(val))
        again = split_sources(given, folder=tmp_path / f"again{seed}", seed=seed)
        assert names(again.val) == splits[seed]
    assert len(set(splits.values())) > 1


def test_a_resumed_run_keeps_its_split(videos, tmp_path):
    """Another seed or more videos must not move a video from one side to the other."""
    given = dataset(videos, val={"fraction": 0.5})
    seeds = range(6)
    first = split_sources(given, folder=tmp_path, seed=0)
    held = names(first.val)
    kept = [split_sources(given, folder=tmp_path, seed=s, keep=True) for s in seeds]
    assert all(names(split.val) == held for split in kept)
    drawn = [names(split_sources(given, folder=tmp_path, seed=s).val) for s in seeds]
    assert any(other != held for other in drawn)


def test_a_list_is_held_out(videos, tmp_path):
    held, without = tmp_path / "held.txt", tmp_path / "without.txt"
    held.write_text("v1\n")
    without.write_text("v3\n")
    given = dataset(videos, exclude=str(without), val={"names": str(held)})
    train, val = split_sources(given, folder=tmp_path, seed=0)
    assert names(train) == {"v0", "v2"} and names(val) == {"v1"}


def test_nothing_left_to_train_on_is_refused(videos, tmp_path):
    with pytest.raises(ConfigError, match="leaves none to train on"):
        split_sources(dataset(videos, val={"fraction": 0.9}), folder=tmp_path, seed=0)


def test_videos_that_cannot_be_scored_are_named_before_training(tmp_path, tiny_page):
    images, masks = write_videos(tmp_path / "short")
    for folder in (images, masks):
        for path in sorted((folder / "v2").iterdir())[2:]:
            path.unlink()
    held = tmp_path / "held.txt"
    held.write_text("v1\nv2\n")
    changes = {"dataset.images": str(images), "dataset.annotations": str(masks)}
    changes["dataset.val"] = {"names": str(held)}
    with pytest.raises(ConfigError, match="1 of 2 videos have fewer than 3 .*: v2"):
        prepare(with_overrides(read_page(tiny_page()), changes))
    assert not (tmp_path / "out" / "config.py").exists()


def test_videos_that_are_trained_on_too_are_refused(videos, tiny_page, tmp_path):
    """The same folders given once more are no held-out data."""
    images, masks = videos
    val = {"images": str(images), "annotations": str(masks)}
    with pytest.raises(ConfigError, match="4 videos are trained on too"):
        prepare(with_overrides(read_page(tiny_page()), {"dataset.val": val}))


@pytest.mark.parametrize(
    ("kind", "right"), [("folder", "image_folder"), ("image_folder", "folder")]
)
def test_folders_of_the_other_kind_are_refused(kind, right, tmp_path, tiny_page):
    places = {f"dataset.{key}": str(path) for key, path in WRITERS[right](tmp_path / "d").items()}
    changes = {**places, "dataset.type": kind, "dataset.frames": None}
    with pytest.raises(ValueError, match="no video found"):
        prepare(with_overrides(read_page(tiny_page()), changes))
