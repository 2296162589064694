"""Rows whose objects are boxes, from ``special_jsons/spatial``: no mask is read.

    <dataset>_bbox.json     {anno_id: [[x1, y1, x2, y2] or null, one per frame]}, pixels
    meta_expressions.json   as for masks, see video_rows; its expressions name the anno_id

Rows of the mask readers serve as well: their masks know their boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import mask_to_box
from projects.common.video import image_size
from projects.llava_sam2.datasets.box_text import Box, relative_box
from projects.llava_sam2.datasets.records import load_json
from projects.llava_sam2.datasets.revos import TYPES
from projects.llava_sam2.datasets.rows import MASKS_UNKNOWN, MaskTrack, Row
from projects.llava_sam2.datasets.video_rows import Entry, video_rows


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
        x1, y1, x2, y2 = (max(round(value), 0) for value in box)  # a pixel out is tolerated
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
) -> Sequence[Row]:
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
    frame_root = Path(frame_root)
    reader = _BoxFile(Path(boxes), frame_root, suffix)
    return video_rows(
        meta_file=Path(file),
        frame_root=frame_root,
        masks=lambda videos: reader,
        absent=lambda entry: TYPES.get(entry.get("type_id")) == "absent",  # ReVOS
        suffix=suffix,
        on_bad_row=on_bad_row,
        limit=limit,
    )


def object_boxes(
    row: Row, objects: Sequence[int] | None, frame: int, size: tuple[int, int]
) -> list[Box]:
    """Boxes of a row's objects on a frame of ``size`` (height, width), relative to it.

    In the order of ``objects``; one that is absent has none. A track tells its box itself
    (``box(frame)``), or its mask does.

    Raises:
        ValueError: naming the row, if a box does not fit the frame, or nobody knows the objects.
    """
    if objects is None:
        raise ValueError(f"{row.name}: {MASKS_UNKNOWN}")
    where = f"{row.name} frame {frame}"
    found = (track_box(row.objects[index], frame) for index in objects)
    return [relative_box(box, size, where=where) for box in found if box is not None]


def track_box(track: MaskTrack, frame: int) -> Box | None:
    """x1, y1, x2, y2 in pixels, x2 and y2 exclusive; None where the object is absent."""
    if hasattr(track, "box"):
        return track.box(frame)
    mask = track.read(frame)
    return None if mask is None else mask_to_box(mask)


class _BoxFile:
    """A box file in the place of the masks of ``video_rows``."""

    def __init__(self, file: Path, frame_root: Path, suffix: str) -> None:
        self.file, self.frame_root, self.suffix = file, frame_root, suffix
        self.tracks = load_json(file)
        if not isinstance(self.tracks, dict):
            raise ValueError(f"{file}: expected an object of anno_ids")

    def names(self, video: str, key: str, entry: Entry) -> list[str]:
        found = entry.get("anno_id", ())
        return [str(anno_id) for anno_id in (found if isinstance(found, list | tuple) else [found])]

    def track(self, video: str, name: str, frames: Sequence[str]) -> MaskTrack | str:
        where = f"anno_id {name} in {self.file}"
        boxes = self.tracks.get(name)
        if not isinstance(boxes, list):
            return f"no {where}"
        if len(boxes) != len(frames):
            return f"{where} has {len(boxes)} boxes for {len(frames)} frames"
        try:
            size = _frame_size(self.frame_root / video / f"{frames[0]}{self.suffix}")
            for frame, box in enumerate(boxes):
                _check_box(box, size, f"{where} frame {frame}")
        except ValueError as error:
            return str(error)
        return BoxTrack(boxes, size)


_frame_size = lru_cache(maxsize=1)(image_size)  # the objects of a video one after the other


def _check_box(box: Any, size: tuple[int, int], where: str) -> None:
    if box is None:
        return
    numbers = isinstance(box, list) and all(isinstance(value, int | float) for value in box)
    if not numbers or len(box) != 4:
        raise ValueError(f"{where}: a box is [x1, y1, x2, y2], found {box!r}")
    relative_box(tuple(box), size, where=where)
