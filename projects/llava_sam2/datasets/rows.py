"""Rows: what every annotation source turns its files into.

    Row = one image or video
          ├─ source, frames      where its pixels are
          ├─ objects             what is annotated in it, each a MaskTrack (a mask a frame, or none)
          └─ expressions         text -> the objects it names; its mask is their union

An image is a row of one frame. A row reads like a video (``len(row)``, ``row[frame]``,
``row.read(frames)``). Masks stay encoded until a sample asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from projects.common.mask_store import StoredTrack
from projects.common.mask_store.nearest import sample_mask, sample_runs
from projects.common.masks import (
    decode_rle,
    decode_segmentation,
    mask_to_box,
    rle_runs,
    segmentation_area,
)
from projects.common.video import read_image

ALL_EMPTY = "all its masks are empty"
MASKS_UNKNOWN = (
    "its masks are not public, the benchmark's server has them; train on another split, and "
    "evaluate this one with SubmissionBenchmark"
)


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

    def is_empty(self) -> bool:
        """Without drawing it."""
        return not segmentation_area(self.segmentation, self.height, self.width, where=self.where)

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

    def sample(
        self, frame: int, size: tuple[int, int], side: int, *, mirror: bool = False
    ) -> np.ndarray | None:
        """As :meth:`projects.common.mask_store.StoredTrack.sample`."""
        rle = self.rles[frame]
        if rle is None:
            return None
        runs = rle_runs(rle, where=f"{self.where} frame {frame}", size=size)
        return sample_runs(runs, size, side, mirror=mirror)


@dataclass(frozen=True)
class Expression:
    """A text and the objects (indices into ``Row.objects``) that it names.

    Attributes:
        objects: empty where it names nothing that is there; None where that is not known, because
            the masks are with the benchmark's server.
        key: identifies it within its dataset: a sentence id, or "<video>/<expression id>".
        part: of the dataset, where its scores are reported by part: "referring", "annotator 1".
    """

    text: str
    objects: tuple[int, ...] | None
    key: str
    part: str | None = None


class AnnotatedFrames:
    """What can be read of a row, of its ``name``, ``objects``, length and single frames."""

    name: str
    objects: Sequence[MaskTrack]

    def __getitem__(self, frame: int) -> np.ndarray:
        """One frame, RGB uint8 [H, W, 3]."""
        raise NotImplementedError

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

    def read_mask(
        self, objects: Sequence[int] | None, frame: int, size: tuple[int, int]
    ) -> np.ndarray:
        """Union of the objects' masks on one frame, bool [H, W]; ``size`` is that of the frame."""
        union = np.zeros(size, dtype=bool)
        for index in self._known(objects):
            mask = self._read_object(index, frame, size)
            if mask is not None:
                union |= mask
        return union

    def sample_masks(
        self,
        named: Sequence[Sequence[int] | None],
        frames: Sequence[int],
        size: tuple[int, int],
        side: int,
        *,
        mirror: bool = False,
    ) -> np.ndarray:
        """Masks of sets of objects at the resolution of a loss, bool [E, T, side, side], nearest.

        An RLE goes there straight from its runs; an object that several sets name is read once.

        Args:
            named: sets of objects, as ``Expression.objects``.
            size: (height, width) of the frames.
            mirror: of the masks flipped left to right.
        """
        masks = np.zeros((len(named), len(frames), side, side), dtype=bool)
        for place, frame in enumerate(frames):
            seen: dict[int, np.ndarray | None] = {}
            for number, objects in enumerate(named):
                for index in self._known(objects):
                    if index not in seen:
                        seen[index] = self._sample_object(index, frame, size, side, mirror)
                    mask = seen[index]
                    if mask is not None:
                        masks[number, place] |= mask
        return masks

    def _known(self, objects: Sequence[int] | None) -> Sequence[int]:
        if objects is None:
            raise ValueError(f"{self.name}: {MASKS_UNKNOWN}")
        return objects

    def _read_object(self, index: int, frame: int, size: tuple[int, int]) -> np.ndarray | None:
        mask = self.objects[index].read(frame)
        if mask is not None and mask.shape != size:
            raise ValueError(
                f"{self.name}: object {index} has a mask of {mask.shape} on frame {frame}, "
                f"the frame is {size} (height, width); annotation and frames do not match"
            )
        return mask

    def _sample_object(
        self, index: int, frame: int, size: tuple[int, int], side: int, mirror: bool
    ) -> np.ndarray | None:
        track = self.objects[index]
        if isinstance(track, StoredTrack | RleTrack):
            return track.sample(frame, size, side, mirror=mirror)
        mask = self._read_object(index, frame, size)
        return None if mask is None else sample_mask(mask, side, mirror=mirror)


@dataclass(frozen=True)
class Row(AnnotatedFrames):
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


def is_empty(track: MaskTrack, frames: int) -> bool:
    """Whether the object is on none of the frames; stops decoding at the first mask it finds."""
    if isinstance(track, StoredTrack | StillMask):
        return track.is_empty()
    for frame in range(frames):
        mask = track.read(frame)
        if mask is not None and mask.any():
            return False
    return True


def tracks_read(objects: Sequence[int], tracks: Sequence[MaskTrack], frames: int) -> str | None:
    """Why an expression's masks are unusable, or None: broken, or empty on every frame."""
    try:
        if all(is_empty(tracks[index], frames) for index in objects):
            return ALL_EMPTY
    except ValueError as error:
        return str(error)
    return None
