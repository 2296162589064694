"""DAVIS: JPEG frames, palette PNGs with the object ids 1, 2, ..., and lists of the videos.

As in DAVIS, every object is there on the first frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import write_palette_png
from projects.toy_world.layouts.files import Records, write_frames, write_lines
from projects.toy_world.scene import SceneSpec, sample_scene
from projects.toy_world.world import World

SPLITS: tuple[str, ...] = ("train", "val")


def write_item(world: World, split: str, index: int, root: Path) -> str:
    rng = world.generator("davis", split, index)
    spec = SceneSpec(size=world.side, frames=world.davis_frames, seen_at_start=True)
    scene = sample_scene(rng, spec)
    name = f"shapes-{split}-{index:04d}"
    frames = write_frames(root / "DAVIS" / "JPEGImages" / name, scene.frames)
    folder = root / "DAVIS" / "Annotations" / name
    folder.mkdir(parents=True)
    for frame, masks in zip(frames, scene.masks, strict=True):
        ids = np.zeros(masks.shape[1:], dtype=np.uint8)
        for number, mask in enumerate(masks, start=1):
            ids[mask] = number
        write_palette_png(folder / f"{frame}.png", ids)
    return name


def write_index(world: World, records: Records, root: Path) -> dict[str, Any]:
    for split in SPLITS:
        write_lines(root / "DAVIS" / "ImageSets" / f"{split}.txt", records[split])
    return {}
