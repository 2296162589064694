"""SA-V: 24 frames a second, of which every 4th is annotated.

train: ``<id>.mp4``, its frames extracted to ``<id>/``, and ``<id>_manual.json`` with the fields of
the released files. val: ``JPEGImages_24fps/<id>/``, ``Annotations_6fps/<id>/<object>/`` with a
binary PNG an annotated frame (empty where the object is not in sight), and ``sav_val.txt``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import encode_rle, write_binary_png
from projects.common.video import write_mp4
from projects.toy_world.layouts.files import Records, write_frames, write_json, write_lines
from projects.toy_world.scene import Scene, SceneSpec, sample_scene
from projects.toy_world.world import World

SPLITS: tuple[str, ...] = ("train", "val")
FPS = 24
ANNOTATED_EVERY = 4
_IDS_PER_SPLIT = 500_000
_BUCKETS = ((32**2, "small"), (96**2, "medium"))  # px, up to


def write_item(world: World, split: str, index: int, root: Path) -> str:
    _, scene = draw(world, split, index)
    name = video_name(split, index)
    if split == "train":
        folder = root / "SA-V" / "train"
        write_frames(folder / name, scene.frames)
        write_mp4(folder / f"{name}.mp4", scene.frames, FPS)
        write_json(folder / f"{name}_manual.json", _manual(name, scene))
    else:
        folder = root / "SA-V" / "sav_val"
        write_frames(folder / "JPEGImages_24fps" / name, scene.frames)
        _write_pngs(folder / "Annotations_6fps" / name, scene)
    return name


def draw(world: World, split: str, index: int) -> tuple[np.random.Generator, Scene]:
    """A video's scene, and the generator that has drawn it, for what is said of it."""
    rng = world.generator("sav", split, index)
    frames = world.sav_frames * ANNOTATED_EVERY
    spec = SceneSpec(size=world.side, frames=frames, rate=1 / ANNOTATED_EVERY)
    return rng, sample_scene(rng, spec)


def video_name(split: str, index: int) -> str:
    return f"sav_{SPLITS.index(split) * _IDS_PER_SPLIT + index:06d}"


def write_index(world: World, records: Records, root: Path) -> dict[str, Any]:
    write_lines(root / "SA-V" / "sav_val.txt", records["val"])
    return {}


def _write_pngs(folder: Path, scene: Scene) -> None:
    for number in range(len(scene.things)):
        (folder / f"{number:03d}").mkdir(parents=True)
        for frame in range(0, len(scene.frames), ANNOTATED_EVERY):
            path = folder / f"{number:03d}" / f"{frame:05d}.png"
            write_binary_png(path, scene.masks[frame, number])


def _manual(name: str, scene: Scene) -> dict[str, Any]:
    masks = scene.masks[::ANNOTATED_EVERY]
    frames, count, height, width = masks.shape
    areas = masks.sum(axis=(2, 3))
    seen = areas > 0
    first = seen.argmax(axis=0)
    sizes = areas.sum(axis=0) / seen.sum(axis=0)
    changes = [int(np.diff(seen[first[n] :, n]).sum()) for n in range(count)]
    return {
        "video_id": name,
        "video_duration": len(scene.frames) / FPS,
        "video_frame_count": float(len(scene.frames)),
        "video_height": float(height),
        "video_width": float(width),
        "video_resolution": float(height * width),
        "video_environment": "Indoor",
        "video_split": "train",
        "masklet": [[encode_rle(mask) for mask in row] for row in masks],
        "masklet_id": list(range(count)),
        "masklet_size_rel": [round(size / (height * width), 10) for size in sizes.tolist()],
        "masklet_size_abs": [round(size, 10) for size in sizes.tolist()],
        "masklet_size_bucket": [_bucket(size) for size in sizes],
        "masklet_visibility_changes": changes,
        "masklet_first_appeared_frame": [float(frame) for frame in first],
        "masklet_frame_count": [frames] * count,
        "masklet_edited_frame_count": [frames] * count,
        "masklet_type": ["manual"] * count,
        "masklet_stability_score": [None] * count,
        "masklet_num": count,
    }


def _bucket(size: float) -> str:
    return next((name for limit, name in _BUCKETS if size < limit), "large")
