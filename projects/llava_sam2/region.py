"""Regions of an image that questions point at, and how they become masks.

mask ────────────────────────────────────► bool [H, W]
box, clicks ──► SAM 2, without memory ──────┘
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from projects.common.conversation import REGION_PLACEHOLDER
from projects.sam2_video.object_prompts import ObjectPrompt

Segment = Callable[[Sequence[ObjectPrompt]], np.ndarray]  # P prompts to masks bool [P, H, W]


@dataclass(frozen=True)
class Region:
    """One region, in pixels of the image: a mask, or a box and/or clicks on what SAM 2 finds there.

    Attributes:
        mask: [H, W]; what is not zero belongs to it.
        box: x1, y1, x2, y2.
        points: (x, y) of each click.
        labels: 1 (on the object) or 0 (beside it) for each click; None: all are on it.
    """

    mask: np.ndarray | None = None
    box: Sequence[float] | None = None
    points: Sequence[Sequence[float]] | None = None
    labels: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if (self.mask is None) == (self.box is None and self.points is None):
            raise ValueError("a region is a mask, or else a box and/or clicks")

    def settled(self, size: tuple[int, int], where: str) -> np.ndarray | ObjectPrompt:
        """A mask bool [H, W], or what SAM 2 is asked for one.

        Args:
            size: (height, width) of the image.
            where: names the region, in errors.

        Raises:
            ValueError: a mask of another size or an empty one, or a place outside of the image.
        """
        if self.mask is None:
            return self._prompt(size, where)
        mask = np.asarray(self.mask)
        if mask.shape != tuple(size):
            raise ValueError(
                f"{where}: a mask of shape {mask.shape} on an image of {size[0]} x {size[1]} "
                "(height x width); it needs the image's own size"
            )
        if not mask.any():
            raise ValueError(f"{where}: the mask is empty; there is nothing to point at")
        return mask != 0

    def _prompt(self, size: tuple[int, int], where: str) -> ObjectPrompt:
        try:
            points = None if self.points is None else np.asarray(self.points, np.float32)
            box = None if self.box is None else np.asarray(self.box, np.float32)
            labels = None if points is None else np.ones(len(points), np.int64)
            if self.labels is not None:
                labels = np.asarray(self.labels)
            prompt = ObjectPrompt(0, 0, points=points, labels=labels, box=box)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        corners = box if box is None or box.shape != (4,) else box.reshape(2, 2)
        inside = _within(corners, size) and _within(points, size)
        if not inside or (corners is not None and not (corners[0] < corners[1]).all()):
            raise ValueError(
                f"{where}: box {self.box}, clicks {self.points} on an image of {size[1]} x "
                f"{size[0]} (x, y): a box is x1, y1, x2, y2 with x1 < x2 and y1 < y2, a click x, y"
            )
        return prompt


def _within(places: np.ndarray | None, size: tuple[int, int]) -> bool:
    """Whether places [P, 2] (x, y) lie in an image of (height, width)."""
    if places is None:
        return True
    pairs = places.ndim == 2 and places.shape[1] == 2
    return pairs and bool(((places >= 0) & (places <= np.float32(size[::-1]))).all())


def check_places(questions: Sequence[str], regions: Sequence[Sequence[object]], name: str) -> None:
    """Each question has its regions, as many as it has places for, if it has any.

    Raises:
        ValueError: with both counts.
    """
    if len(regions) != len(questions):
        raise ValueError(f"{name}: {len(questions)} questions, but regions of {len(regions)}")
    for question, given in zip(questions, regions, strict=True):
        places = question.count(REGION_PLACEHOLDER)
        if places not in (0, len(given)):
            raise ValueError(
                f"{name}: {places} {REGION_PLACEHOLDER} in the question {question!r}, but "
                f"{len(given)} regions are given"
            )


def region_masks(
    regions: Sequence[Sequence[Region | np.ndarray]],
    size: tuple[int, int],
    *,
    segment: Segment,
    name: str,
) -> list[np.ndarray | None]:
    """The regions of each question as masks bool [R, H, W]; None for a question without.

    Args:
        regions: an array is a mask.
        size: (height, width) of the image.
        segment: finds what boxes and clicks are on.
        name: of the image, in errors.

    Raises:
        ValueError: as :meth:`Region.settled`.
    """
    settled = [
        [
            (one if isinstance(one, Region) else Region(mask=one)).settled(
                size, f"{name}: region{place}"
            )
            for place, one in enumerate(given, start=1)
        ]
        for given in regions
    ]
    prompts = [one for given in settled for one in given if isinstance(one, ObjectPrompt)]
    found = iter(segment(prompts) if prompts else ())
    return [
        np.stack([next(found) if isinstance(one, ObjectPrompt) else one for one in given])
        if given
        else None
        for given in settled
    ]
