"""Referring videos in more layouts: what MeViS' first videos show, as other datasets would say it.

    Ref-YouTube-VOS  palette PNGs by obj_id; mask_dict.pkl by the number of the expression
    ReVOS            videos in a sub-folder; type_id; mask_dict_foreground.json
    Ref-DAVIS17      four annotators for each object
    MeViS valid      without masks, as for the benchmark's server
    Ref-SAV          descriptions of SA-V's objects; a MeViS-like evaluation set

Expressions that name several objects are MeViS' and ReVOS' alone.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import decode_rle, encode_rle, union, write_palette_png
from projects.toy_world.drawing import COLOURS, SHAPES
from projects.toy_world.expressions import Expression, write_expressions
from projects.toy_world.layouts import sav
from projects.toy_world.layouts.files import Records, write_json
from projects.toy_world.layouts.mevis import VideoRecord, frame_folder
from projects.toy_world.world import World

TRAIN, VALID, SAV = 12, 6, 4  # videos that are retold, where there are so many
_SPLITS = (("train", "train", TRAIN), ("valid", "valid_u", VALID))  # split, MeViS' split, videos
_SOURCE = "toy"  # ReVOS' videos come from other datasets, and lie in folders named after them
_ANNOTATORS = 4


def write(world: World, records: Mapping[str, Records], root: Path) -> None:
    videos = root / "video_datas"
    for split, told, count in _SPLITS:
        some = records["mevis"][told][:count]
        _write_rvos(some, root, told, videos / "rvos", split)
        _write_revos(some, root, told, videos / "ReVOS", split)
    valid = records["mevis"]["valid_u"][:VALID]
    _write_rvos_dictionary(records["mevis"]["train"][:TRAIN], videos / "rvos")
    _write_revos_masks(records["mevis"], videos / "ReVOS")
    _write_davis(valid, root, videos / "davis17")
    _write_mevis_valid(valid, root, videos / "mevis" / "valid")
    _write_ref_sav_eval(valid, root, videos / "ref_sav_eval")
    _write_ref_sav(world, len(records["sav"]["train"][:SAV]), videos / "ref_sav")


def _write_rvos(
    records: Sequence[VideoRecord], root: Path, told: str, folder: Path, split: str
) -> None:
    videos = {}
    for record in records:
        _copy_frames(root, told, record, folder / split / "JPEGImages" / record.name)
        if split == "train":  # the masks of valid are with the server
            _write_palettes(record, folder / split / "Annotations" / record.name)
        expressions = {
            str(k): {"exp": e.text, "obj_id": str(e.targets[0] + 1)}
            for k, e in enumerate(_of_one(record.expressions))
        }
        videos[record.name] = {"expressions": expressions, "frames": record.frames}
    write_json(folder / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})


def _write_rvos_dictionary(records: Sequence[VideoRecord], folder: Path) -> None:
    tracks = []
    for record in records:
        said = _of_one(record.expressions)
        for key in sorted(str(k) for k in range(len(said))):
            tracks.append(record.tracks[said[int(key)].targets[0]])
    # read back from json: a pickle's bytes depend on which equal texts are one object
    numbered = json.loads(json.dumps({str(n): track for n, track in enumerate(tracks)}))
    (folder / "mask_dict.pkl").write_bytes(pickle.dumps(numbered, protocol=4))


def _write_revos(
    records: Sequence[VideoRecord], root: Path, told: str, folder: Path, split: str
) -> None:
    first = 0 if split == "train" else _REVOS_VALID
    videos = {}
    for number, record in enumerate(records):
        name = f"{_SOURCE}/{record.name}"
        _copy_frames(root, told, record, folder / "JPEGImages" / name)
        ids = [first + 10 * number + n for n in range(len(record.tracks))]
        expressions: list[dict[str, Any]] = [
            {
                "exp": e.text,
                "obj_id": list(e.targets),
                "anno_id": [ids[target] for target in e.targets],
                "type_id": int(bool({"motion", "relation"} & set(e.uses))),
            }
            for e in record.expressions
        ]
        expressions.append({"exp": _absent(record), "obj_id": [], "anno_id": [], "type_id": 2})
        videos[name] = {
            "frames": record.frames,
            "expressions": {str(k): entry for k, entry in enumerate(expressions)},
        }
    write_json(folder / f"meta_expressions_{split}_.json", {"videos": videos})


_REVOS_VALID = 100_000  # the first anno_id of valid


def _write_revos_masks(records: Records, folder: Path) -> None:
    masks, foreground = {}, {}
    for split, told, count in _SPLITS:
        first = 0 if split == "train" else _REVOS_VALID
        for number, record in enumerate(records[told][:count]):
            for n, track in enumerate(record.tracks):
                masks[str(first + 10 * number + n)] = track
            together = [_together(rles) for rles in zip(*record.tracks, strict=True)]
            foreground[f"{_SOURCE}/{record.name}"] = {"masks_rle": together}
    write_json(folder / "mask_dict.json", masks)
    write_json(folder / "mask_dict_foreground.json", foreground)


def _write_davis(records: Sequence[VideoRecord], root: Path, folder: Path) -> None:
    """For each object that is singled out, the same words by all annotators or different ones."""
    videos = {}
    for record in records:
        said: dict[int, list[str]] = {}
        for expression in _of_one(record.expressions):
            said.setdefault(expression.targets[0], []).append(expression.text)
        entries = [
            {"exp": texts[k % len(texts)], "obj_id": str(target + 1)}
            for target, texts in sorted(said.items())
            for k in range(_ANNOTATORS)
        ]
        _copy_frames(root, "valid_u", record, folder / "valid" / "JPEGImages" / record.name)
        _write_palettes(record, folder / "valid" / "Annotations" / record.name)
        expressions = {str(k): entry for k, entry in enumerate(entries)}
        videos[record.name] = {"expressions": expressions, "frames": record.frames}
    write_json(folder / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": videos})


def _write_mevis_valid(records: Sequence[VideoRecord], root: Path, folder: Path) -> None:
    videos = {}
    for record in records:
        _copy_frames(root, "valid_u", record, folder / "JPEGImages" / record.name)
        expressions = {str(k): {"exp": e.text} for k, e in enumerate(record.expressions)}
        videos[record.name] = {"expressions": expressions, "frames": record.frames}
    write_json(folder / "meta_expressions.json", {"videos": videos})


def _write_ref_sav_eval(records: Sequence[VideoRecord], root: Path, folder: Path) -> None:
    videos, masks = {}, {}
    for record in records:
        _copy_frames(root, "valid_u", record, folder / "videos" / record.name)
        expressions = {}
        for k, expression in enumerate(_of_one(record.expressions)):
            anno_id = len(masks)
            masks[str(anno_id)] = record.tracks[expression.targets[0]]
            expressions[str(k)] = {"exp": expression.text, "obj_id": [0], "anno_id": [anno_id]}
        videos[record.name] = {"expressions": expressions, "frames": record.frames}
    write_json(folder / "meta_expressions_valid.json", {"videos": videos})
    write_json(folder / "mask_dict.json", masks)


def _write_ref_sav(world: World, count: int, folder: Path) -> None:
    content = {}
    for index in range(count):
        rng, scene = sav.draw(world, "train", index)
        name = sav.video_name("train", index)
        said = write_expressions(rng, scene, world.video_expressions, world.video_families)
        objects: dict[str, Any] = {}
        for expression in _of_one(said):
            entry = objects.setdefault(str(expression.targets[0]), {"short_caps": []})
            entry.setdefault("formated", expression.text)
            entry["short_caps"].append(expression.text)
        if objects:
            content[name] = {
                "video_path": f"sav_train/sav_000/{name}.mp4",  # as released, not where it lies
                "anno_path": f"sav_train/sav_000/{name}_manual.json",
                "objects": objects,
            }
    write_json(folder / "Ref-SAV.json", content)


def _of_one(expressions: Iterable[Expression]) -> list[Expression]:
    return [expression for expression in expressions if len(expression.targets) == 1]


def _absent(record: VideoRecord) -> str:
    """What nothing in the video looks like."""
    others = (look for look in product(COLOURS, SHAPES) if look not in record.looks)
    return "the {} {}".format(*next(others))


def _copy_frames(root: Path, split: str, record: VideoRecord, folder: Path) -> None:
    shutil.copytree(frame_folder(root, split, record.name), folder, dirs_exist_ok=True)


def _write_palettes(record: VideoRecord, folder: Path) -> None:
    """PNGs with the ids 1, 2, ...: what is seen of each thing is seen of no other."""
    folder.mkdir(parents=True)
    for frame, rles in zip(record.frames, zip(*record.tracks, strict=True), strict=True):
        size = next(tuple(rle["size"]) for rle in rles if rle is not None)
        ids = np.zeros(size, dtype=np.uint8)
        for number, rle in enumerate(rles, start=1):
            if rle is not None:
                ids[decode_rle(rle, where="toy world")] = number
        write_palette_png(folder / f"{frame}.png", ids)


def _together(rles: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    seen = [decode_rle(rle, where="toy world") for rle in rles if rle is not None]
    return encode_rle(union(seen)) if seen else None
