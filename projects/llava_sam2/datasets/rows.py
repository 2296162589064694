"""Rows: what every annotation source turns its files into.

    Row = one image or video
          ├─ source, frames      where its pixels are
          ├─ objects             what is annotated in it, each a MaskTrack (a mask a frame, or none)
          └─ expressions         text -> the objects it names; its mask is their union

An image is a row of one frame. A row reads like a video (``len(row)``, ``row[frame]``,
``row.read(frames)``). Masks stay encoded until a sample asks for them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from projects.common.masks import decode_rle, decode_segmentation, mask_to_box
from projects.common.video import read_image

logger = logging.getLogger(__name__)

_LISTED = 10


class MaskTrack(Protocol):
    """One object's masks over the frames of its row; ``group``: several objects in one mask."""

    @property
    def group(self) -> bool: ...

    def read(self, frame: int) -> np.ndarray | None:
        """Mask bool [H, W] on frame ``frame`` (an index into the row's frames); None: absent."""


@dataclass(frozen=True)
class StillMask:
    """The mask of an object in an image: COCO polygons or RLE."""

    segmentation: Any
    height: int
    width: int
    where: str
    group: bool = False  # COCO's crowd
    bbox: Sequence[float] | None = None  # COCO's x, y, width, height, where the file has it

    def read(self, frame: int) -> np.ndarray:
        return decode_segmentation(self.segmentation, self.height, self.width, where=self.where)

    def box(self, frame: int) -> tuple[float, float, float, float] | None:
        """(x1, y1, x2, y2) in pixels, x2 and y2 exclusive; None of an empty mask."""
        if self.bbox is None:
            return mask_to_box(self.read(frame))
        x, y, width, height = self.bbox
        return x, y, x + width, y + height


@dataclass(frozen=True)
class RleTrack:
    """An RLE or None for each frame."""

    rles: Sequence[dict[str, Any] | None]
    where: str
    group: bool = False

    def read(self, frame: int) -> np.ndarray | None:
        rle = self.rles[frame]
        return None if rle is None else decode_rle(rle, where=f"{self.where} frame {frame}")


@dataclass(frozen=True)
class Expression:
    """A text and the objects (indices into ``Row.objects``) that it names.

    ``key`` identifies it within its dataset: a sentence id, or "<video>/<expression id>".
    """

    text: str
    objects: tuple[int, ...]
    key: str


@dataclass(frozen=True)
class Row:
    """One image or video with everything annotated in it.

    Attributes:
        name: what errors and records call it.
        source: the image file, or the folder of the frames.
        frames: file names within ``source``; None for an image.
        size: (height, width) in pixels where the annotation says it, else None.
    """

    name: str
    source: Path
    frames: tuple[str, ...] | None
    size: tuple[int, int] | None
    objects: tuple[MaskTrack, ...] = field(repr=False)
    expressions: tuple[Expression, ...]

    def __len__(self) -> int:
        """Number of frames."""
        return 1 if self.frames is None else len(self.frames)

    def __getitem__(self, frame: int) -> np.ndarray:
        """One frame, RGB uint8 [H, W, 3]; raises where it disagrees with the annotation's size."""
        if not 0 <= frame < len(self):
            raise IndexError(f"{self.name} has {len(self)} frames, asked for {frame}")
        path = self.source if self.frames is None else self.source / self.frames[frame]
        image = read_image(path)
        if self.size is not None and image.shape[:2] != self.size:
            raise ValueError(
                f"{path}: the image is {image.shape[0]}x{image.shape[1]} (height x width), its "
                f"annotation says {self.size[0]}x{self.size[1]}; they do not belong together"
            )
        return image

    def read(self, frames: Sequence[int]) -> np.ndarray:
        """RGB uint8 [T, H, W, 3]."""
        images = [self[frame] for frame in frames]
        for frame, image in zip(frames, images, strict=True):
            if image.shape != images[0].shape:
                raise ValueError(
                    f"{self.name}: frame {frame} is {image.shape[:2]} (height, width), frame "
                    f"{frames[0]} is {images[0].shape[:2]}; all frames of a video must be alike"
                )
        return np.stack(images)

    def read_mask(self, objects: Sequence[int], frame: int, size: tuple[int, int]) -> np.ndarray:
        """Union of the objects' masks on one frame, bool [H, W]; ``size`` is that of the frame."""
        union = np.zeros(size, dtype=bool)
        for index in objects:
            mask = self.objects[index].read(frame)
            if mask is None:
                continue
            if mask.shape != size:
                raise ValueError(
                    f"{self.name}: object {index} has a mask of {mask.shape} on frame {frame}, "
                    f"the frame is {size} (height, width); annotation and frames do not match"
                )
            union |= mask
        return union


def is_empty(track: MaskTrack, frames: int) -> bool:
    """Whether the object is on none of the frames; stops decoding at the first mask it finds."""
    for frame in range(frames):
        mask = track.read(frame)
        if mask is not None and mask.any():
            return False
    return True


class RowErrors:
    """Collects what is wrong with a file's records, then raises once or skips them with a count.

    Args:
        source: the annotation file, named in the message.
        on_bad_row: "error" or "skip".
    """

    def __init__(self, source: str | Path, on_bad_row: str = "error") -> None:
        if on_bad_row not in ("error", "skip"):
            raise ValueError(f"on_bad_row is 'error' or 'skip', got {on_bad_row!r}")
        self.source = Path(source)
        self.on_bad_row = on_bad_row
        self.messages: list[str] = []

    def add(self, record: str, problem: str) -> None:
        self.messages.append(f"{record}: {problem}")

    def finish(self, rows: Sequence[Any]) -> None:
        """Raise ValueError (or warn, if told to skip) with the count and the first ten.

        Raises:
            ValueError: bad records under "error", or no row left.
        """
        if self.messages:
            shown = "\n".join(f"  {message}" for message in self.messages[:_LISTED])
            more = len(self.messages) - _LISTED
            tail = f"\n  ... and {more} more" if more > 0 else ""
            text = f"{self.source}: {len(self.messages)} bad records:\n{shown}{tail}"
            if self.on_bad_row == "error":
                raise ValueError(f"{text}\nmend them, or pass on_bad_row='skip' to leave them out")
            logger.warning("%s\n  left out (on_bad_row='skip')", text)
        if not rows:
            raise ValueError(f"{self.source}: no usable record; check the split and the paths")


def tracks_read(objects: Sequence[int], tracks: Sequence[MaskTrack], frames: int) -> str | None:
    """Why an expression's masks are unusable, or None: broken, or empty on every frame."""
    try:
        if all(is_empty(tracks[index], frames) for index in objects):
            return "all its masks are empty"
    except ValueError as error:
        return str(error)
    return None


def load_json(path: Path) -> Any:
    """A JSON file; errors name it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the data root")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
