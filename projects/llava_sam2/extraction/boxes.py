"""Masks to box files: ``special_jsons/spatial``.

    MeViS, ReVOS       mask_dict.json ─► {anno_id: [[x1, y1, x2, y2] or null, one per frame]}
    Ref-YouTube-VOS    palette PNGs (or mask_dict.pkl) ─► the same, by the number of the expression,
                       and the expressions with these numbers as their anno_id

Boxes are in pixels of the frames, x2 and y2 exclusive. A file is written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from projects.common.mask_store import open_masks
from projects.common.parallel import map_files
from projects.common.progress import Progress
from projects.common.whole_file import whole_file
from projects.llava_sam2.datasets.box_rows import track_box
from projects.llava_sam2.datasets.records import load_json
from projects.llava_sam2.datasets.ref_ytvos import ref_ytvos_rows
from projects.llava_sam2.datasets.rows import Row

Boxes = list[list[float] | None]  # of one object, one a frame


@dataclass
class Made:
    """What came of one dataset: files written, and how many tracks and boxes are in them."""

    files: list[Path]
    tracks: int
    boxes: int


def boxes_of_dictionary(source: Path, out: Path) -> Made:
    """Boxes of a mask dictionary, under the same keys.

    Raises:
        FileNotFoundError, ValueError: no dictionary, or a mask that is broken, named.
    """
    store = open_masks(source)
    found: dict[str, Boxes] = {}
    with Progress(total=len(store), description=out.name) as progress:
        for key in store.keys():  # noqa: SIM118  (a store is no dict)
            track = store[key]
            found[key] = [_listed(track.box(frame)) for frame in range(len(track))]
            progress.update()
    _write(out, found)
    return _made([out], found)


def boxes_of_ref_ytvos(
    root: Path,
    out: Path,
    expressions: Path,
    *,
    masks: str = "png",
    on_bad_row: str = "error",
    workers: int = 0,
) -> Made:
    """Boxes of Ref-YouTube-VOS's training split, and its expressions with the keys of them.

    The expressions of its file name no masks. They are numbered as in the released
    ``mask_dict.pkl``: videos in the order of the file, expression ids sorted as text.

    Args:
        root: holds ``train`` and ``meta_expressions/train``.
        out: the boxes.
        expressions: ``{"videos": ...}`` as MeViS has it, with ``anno_id``.
        masks: "png" or "mask_dict", see ``ref_ytvos_rows``.
        on_bad_row: "error", or "skip": an expression without masks has no box on any frame.
        workers: processes that read PNGs; 0 reads in this one.

    Raises:
        FileNotFoundError, ValueError: naming the file and the record.
    """
    rows = ref_ytvos_rows(root=root, split="train", masks=masks, on_bad_row=on_bad_row)
    by_expression: dict[str, Boxes] = {}
    failures = []
    with Progress(total=len(rows), description=out.name) as progress:
        for outcome in map_files(_row_boxes, rows, workers=workers):
            by_expression |= outcome.result or {}
            failures += [outcome.error] if outcome.error is not None else []
            progress.update()
    if failures:
        raise ValueError(f"{len(failures)} of {len(rows)} videos failed, the first: {failures[0]}")
    content = load_json(root / "meta_expressions" / "train" / "meta_expressions.json")
    found = _numbered(content["videos"], by_expression)
    _write(out, found)
    _write(expressions, content)
    return _made([out, expressions], found)


def _numbered(videos: dict[str, Any], by_expression: dict[str, Boxes]) -> dict[str, Boxes]:
    """Boxes by the number of the expression, which each of them gets as its ``anno_id``.

    What is no video, or no expression, stays as it is, for the readers to name.
    """
    found: dict[str, Boxes] = {}
    for name, video in videos.items():
        entries = video.get("expressions") if isinstance(video, dict) else None
        if not isinstance(entries, dict):
            continue
        frames = video.get("frames")
        nowhere: Boxes = [None] * (len(frames) if isinstance(frames, list) else 0)
        for key in sorted(entries):
            number = str(len(found))
            found[number] = by_expression.get(f"{name}/{key}") or nowhere
            if isinstance(entries[key], dict):
                entries[key]["anno_id"] = [number]
    return found


def recipes(data_root: Path, out: Path, **ref_ytvos: Any) -> dict[str, Recipe]:
    """The datasets that boxes are made of, by name; ``ref_ytvos``: options of its function."""
    videos = data_root / "video_datas"
    mevis, revos = (
        videos / "mevis" / "train" / "mask_dict.json",
        videos / "ReVOS" / "mask_dict.json",
    )
    folder = out / "refytvos"
    return {
        "mevis": Recipe(
            mevis, partial(boxes_of_dictionary, mevis, out / "mevis" / "mevis_bbox.json")
        ),
        "refytvos": Recipe(
            videos / "rvos" / "meta_expressions" / "train" / "meta_expressions.json",
            partial(
                boxes_of_ref_ytvos,
                videos / "rvos",
                folder / "ref_ytvos_bbox.json",
                folder / "ref_ytvos_expressions.json",
                **ref_ytvos,
            ),
        ),
        "revos": Recipe(
            revos, partial(boxes_of_dictionary, revos, out / "revos" / "revos_bbox.json")
        ),
    }


@dataclass
class Recipe:
    """How the boxes of a dataset are made, and the file without which they cannot be."""

    needs: Path
    make: Callable[[], Made]


def _row_boxes(row: Row) -> dict[str, Boxes]:
    """Boxes of each expression of a video; frame by frame, so that a PNG is read once."""
    found: dict[str, Boxes] = {expression.key: [] for expression in row.expressions}
    for frame in range(len(row)):
        for expression in row.expressions:
            (index,) = expression.objects  # one object each, in this dataset
            found[expression.key].append(_listed(track_box(row.objects[index], frame)))
    return found


def _listed(box: tuple[float, ...] | None) -> list[float] | None:
    return None if box is None else list(box)


def _made(files: list[Path], found: dict[str, Boxes]) -> Made:
    boxes = sum(box is not None for track in found.values() for box in track)
    return Made(files, len(found), boxes)


def _write(path: Path, content: Any) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
