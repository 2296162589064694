"""MeViS: JPEG frames, ``meta_expressions.json``, and ``mask_dict.json`` with an RLE a frame.

``anno_id`` numbers the objects of a split; where an object is not in sight its entry is null.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projects.common.masks import encode_rle
from projects.toy_world.expressions import Expression, write_expressions
from projects.toy_world.layouts.files import Records, labels_of, write_frames, write_json
from projects.toy_world.scene import SceneSpec, sample_scene
from projects.toy_world.world import World

SPLITS: tuple[str, ...] = ("train", "valid_u")


@dataclass(frozen=True)
class VideoRecord:
    """A video: for each object an RLE (or None) a frame and its look, and the expressions."""

    name: str
    frames: list[str]
    tracks: list[list[dict[str, Any] | None]]
    expressions: list[Expression]
    looks: list[tuple[str, str]]  # colour, shape


def write_item(world: World, split: str, index: int, root: Path) -> VideoRecord:
    rng = world.generator("mevis", split, index)
    name = rng.bytes(6).hex()
    scene = sample_scene(rng, SceneSpec(size=world.side, frames=world.clip_frames))
    frames = write_frames(frame_folder(root, split, name), scene.frames)
    tracks = [
        [encode_rle(mask) if mask.any() else None for mask in scene.masks[:, n]]
        for n in range(len(scene.things))
    ]
    expressions = write_expressions(rng, scene, world.video_expressions, world.video_families)
    looks = [(thing.colour, thing.shape) for thing in scene.things]
    return VideoRecord(name, frames, tracks, expressions, looks)


def write_index(world: World, records: Records, root: Path) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    for split in SPLITS:
        videos: dict[str, Any] = {}
        mask_dict: dict[str, Any] = {}
        for number, record in enumerate(records[split]):
            first = len(mask_dict)
            mask_dict |= {str(first + n): track for n, track in enumerate(record.tracks)}
            videos[record.name] = _video(number, record, first)
            labels[record.name] = {
                str(number): labels_of(e) for number, e in enumerate(record.expressions)
            }
        write_json(_folder(root, split) / "meta_expressions.json", {"videos": videos})
        write_json(_folder(root, split) / "mask_dict.json", mask_dict)
    return {"mevis": labels}


def _video(number: int, record: VideoRecord, first_anno_id: int) -> dict[str, Any]:
    return {
        "vid_id": number,
        "frames": record.frames,
        "expressions": {
            str(k): {
                "exp": expression.text,
                "obj_id": list(expression.targets),
                "anno_id": [first_anno_id + target for target in expression.targets],
            }
            for k, expression in enumerate(record.expressions)
        },
    }


def frame_folder(root: Path, split: str, name: str) -> Path:
    return _folder(root, split) / "JPEGImages" / name


def _folder(root: Path, split: str) -> Path:
    return root / "video_datas" / "mevis" / split
