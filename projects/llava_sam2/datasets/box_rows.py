"""Rows whose objects are boxes, from ``special_jsons/spatial``: no mask is read.

    <dataset>_bbox.json     {anno_id: [[x1, y1, x2, y2] or null, one per frame]}, pixels
    meta_expressions.json   {"videos": {video: {"frames": [...], "expressions": {id: {"exp",
                            "anno_id": [...]}}}}}

Rows of the mask readers serve as well: their masks know their boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import mask_to_box
from projects.common.video import image_size
from projects.llava_sam2.datasets.box_text import Box, relative_box
from projects.llava_sam2.datasets.image_files import file_inside
from projects.llava_sam2.datasets.rows import Expression, MaskTrack, Row, RowErrors, load_json


@dataclass(frozen=True)
class BoxTrack:
    """A box, or None, for each frame. As a mask it is a filled rectangle."""

    boxes: Sequence[Sequence[float] | None] = field(repr=False)
    size: tuple[int, int]  # height and width of the frames
    group: bool = False

    def box(self, frame: int) -> Box | None:
        """x1, y1, x2, y2 in pixels, x2 and y2 exclusive."""
        box = self.boxes[frame]
        return None if box is None else tuple(box)

    def read(self, frame: int) -> np.ndarray | None:
        """The rectangle, bool [H, W]."""
        box = self.box(frame)
        if box is None:
            return None
        x1, y1, x2, y2 = (round(value) for value in box)
        mask = np.zeros(self.size, dtype=bool)
        mask[y1:y2, x1:x2] = True
        return mask


def box_rows(
    *,
    file: str | Path,
    boxes: str | Path,
    frame_root: str | Path,
    suffix: str = ".jpg",
    on_bad_row: str = "error",
    limit: int | None = None,
) -> list[Row]:
    """One row per video, with all its expressions.

    Args:
        file: ``meta_expressions.json`` (MeViS, ReVOS), or what ``tools/make_boxes.py`` makes of
            Ref-YouTube-VOS's, which names no ``anno_id``: ``ref_ytvos_expressions.json``.
        boxes: the ``*_bbox.json`` that belongs to it.
        frame_root: folder of the videos' folders of frames.
        suffix: of the frame files.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many videos.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file, boxes_file = Path(file), Path(boxes)
    content, tracks = load_json(file), load_json(boxes_file)
    if not isinstance(content, dict) or not isinstance(content.get("videos"), dict):
        raise ValueError(f"{file}: expected an object with 'videos'")
    if not isinstance(tracks, dict):
        raise ValueError(f"{boxes_file}: expected an object of anno_ids")
    errors = RowErrors(file, on_bad_row)
    rows = []
    for name, video in list(content["videos"].items())[:limit]:
        try:
            frames, size = _frames(Path(frame_root), name, video, suffix)
        except ValueError as error:
            errors.add(f"video {name}", str(error))
            continue
        row = _row(Path(frame_root) / name, name, video, frames, size, tracks, boxes_file, errors)
        if row.expressions:
            rows.append(row)
    errors.finish(rows)
    return rows


def object_boxes(row: Row, objects: Sequence[int], frame: int, size: tuple[int, int]) -> list[Box]:
    """Boxes of a row's objects on a frame of ``size`` (height, width), relative to it.

    In the order of ``objects``; one that is absent has none. A track tells its box itself
    (``box(frame)``), or its mask does.

    Raises:
        ValueError: naming the row, if a box does not fit the frame.
    """
    where = f"{row.name} frame {frame}"
    found = (_track_box(row.objects[index], frame) for index in objects)
    return [relative_box(box, size, where=where) for box in found if box is not None]


def _track_box(track: MaskTrack, frame: int) -> Box | None:
    if hasattr(track, "box"):
        return track.box(frame)
    mask = track.read(frame)
    return None if mask is None else mask_to_box(mask)


def _frames(
    root: Path, name: str, video: Any, suffix: str
) -> tuple[tuple[str, ...], tuple[int, int]]:
    """Names of the frames, and the size of the first; raises for what is not there."""
    if not isinstance(video, dict) or not isinstance(video.get("expressions"), dict):
        raise ValueError("it needs 'frames' and 'expressions'")
    if not isinstance(video.get("frames"), list) or not video["frames"]:
        raise ValueError("it lists no frames")
    folder, problem = file_inside(root, name, folder=True)
    if problem is not None:
        raise ValueError(problem)
    frames = tuple(f"{frame}{suffix}" for frame in video["frames"])
    missing = set(frames) - {path.name for path in folder.iterdir()}
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(frames)} frames are not in {folder}, e.g. {min(missing)}"
        )
    return frames, image_size(folder / frames[0])


def _row(
    folder: Path,
    name: str,
    video: dict[str, Any],
    frames: tuple[str, ...],
    size: tuple[int, int],
    tracks: dict[str, Any],
    boxes_file: Path,
    errors: RowErrors,
) -> Row:
    position: dict[str, int] = {}
    objects: list[BoxTrack] = []
    expressions = []
    for key, entry in video["expressions"].items():
        try:
            ids = _anno_ids(entry)
            for anno_id in ids:
                if anno_id not in position:
                    _check_track(anno_id, tracks, boxes_file, len(frames), size)
                    position[anno_id] = len(objects)
                    objects.append(BoxTrack(tracks[anno_id], size))
            if not any(box for anno_id in ids for box in tracks[anno_id]):
                raise ValueError("all its boxes are empty")
        except ValueError as error:
            errors.add(f"video {name} expression {key}", str(error))
            continue
        targets = tuple(position[anno_id] for anno_id in ids)
        expressions.append(Expression(entry["exp"].strip(), targets, f"{name}/{key}"))
    return Row(name, folder, frames, None, tuple(objects), tuple(expressions))


def _anno_ids(entry: Any) -> list[str]:
    if not isinstance(entry, dict) or not str(entry.get("exp", "")).strip():
        raise ValueError("empty expression")
    ids = entry.get("anno_id")
    if not isinstance(ids, list) or not ids:
        raise ValueError(
            "it names no anno_id (of Ref-YouTube-VOS, take ref_ytvos_expressions.json, made by "
            "tools/make_boxes.py)"
        )
    return [str(anno_id) for anno_id in ids]


def _check_track(
    anno_id: str, tracks: dict[str, Any], file: Path, frames: int, size: tuple[int, int]
) -> None:
    where = f"anno_id {anno_id} in {file}"
    boxes = tracks.get(anno_id)
    if not isinstance(boxes, list):
        raise ValueError(f"no {where}")
    if len(boxes) != frames:
        raise ValueError(f"{where} has {len(boxes)} boxes for {frames} frames")
    for frame, box in enumerate(boxes):
        if box is None:
            continue
        if (
            not isinstance(box, list)
            or len(box) != 4
            or not all(isinstance(value, int | float) for value in box)
        ):
            raise ValueError(f"{where} frame {frame}: a box is [x1, y1, x2, y2], found {box!r}")
        relative_box(tuple(box), size, where=f"{where} frame {frame}")
