"""Boxes as text, and back.

    an image     <box>0.102,0.250,0.480,0.755</box><single_img>
    two things   <box>0.102,0.250,0.480,0.755<box_sep>0.500,0.100,0.910,0.420</box><single_img>
    a video      <box>0.102,0.250,0.480,0.755</box><next><box><no_box></box><next>...

A box is x1, y1, x2, y2 over the width and the height of the frame, x2 and y2 exclusive, with three
decimals; every frame that is seen has its ``<box>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from projects.common.conversation import (
    BOX_END,
    BOX_SEPARATOR,
    BOX_START,
    NEXT_FRAME,
    NO_BOX,
    SINGLE_IMAGE,
)

Box = tuple[float, float, float, float]  # x1, y1, x2, y2

_STEPS = 1000  # three decimals
_FRAME = re.compile(f"{BOX_START}(.*?){BOX_END}")
_NUMBER = r"([01](?:\.\d*)?|\.\d+)"
_BOX = re.compile(",".join([_NUMBER] * 4))


@dataclass(frozen=True)
class ParsedBoxes:
    """Boxes that an answer gives.

    Attributes:
        frames: for each frame that was asked about its boxes (none: an empty list), or None where
            the answer says nothing that can be read.
        further: frames that the answer adds to those that were asked about.
    """

    frames: list[list[Box] | None]
    further: int

    @property
    def whole(self) -> bool:
        """Whether every frame was answered, and nothing else."""
        return not self.further and None not in self.frames


def box_text(frames: Sequence[Sequence[Box]], *, video: bool) -> str:
    """The answer for boxes that are relative to their frame.

    Args:
        frames: the boxes on each frame; one frame for an image.

    Raises:
        ValueError: a box without area, or outside of 0..1; an image of several frames.
    """
    if not frames or (len(frames) != 1 and not video):
        raise ValueError(f"{len(frames)} frames of boxes for {'a video' if video else 'an image'}")
    parts = [
        BOX_START + (BOX_SEPARATOR.join(map(_spell, boxes)) or NO_BOX) + BOX_END for boxes in frames
    ]
    return NEXT_FRAME.join(parts) if video else parts[0] + SINGLE_IMAGE


def parse_boxes(text: str, frames: int) -> ParsedBoxes:
    """Read an answer about so many frames.

    Spaces, and words around a ``<box>...</box>``, do not count. A frame with two of them, with a
    number that is none, or a box without area cannot be read, and what cannot be read is nowhere:
    guessing would turn a failure into a score.
    """
    bare = re.sub(r"\s+", "", text).replace(SINGLE_IMAGE, "")
    parts = bare.split(NEXT_FRAME) if bare else []
    found = [_frame(part) for part in parts[:frames]]
    lacking: list[list[Box] | None] = [None] * (frames - len(found))
    return ParsedBoxes(found + lacking, max(0, len(parts) - frames))


def relative_box(box: Box, size: tuple[int, int], *, where: str) -> Box:
    """A box in pixels over the size (height, width) of its frame, in 0..1.

    Raises:
        ValueError: it has no area, or reaches more than a pixel out of the frame.
    """
    height, width = size
    x1, y1, x2, y2 = box
    inside = -1 <= x1 < x2 <= width + 1 and -1 <= y1 < y2 <= height + 1
    if not inside or x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise ValueError(
            f"{where}: box {[round(value, 2) for value in box]} (x1, y1, x2, y2) in a frame of "
            f"{height}x{width} (height x width); annotation and frames do not match"
        )
    return max(x1, 0) / width, max(y1, 0) / height, min(x2 / width, 1), min(y2 / height, 1)


def _spell(box: Box) -> str:
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise ValueError(f"box {box} is not x1, y1, x2, y2 within 0..1")
    (x1, x2), (y1, y2) = _steps(x1, x2), _steps(y1, y2)
    return ",".join(f"{value / _STEPS:.3f}" for value in (x1, y1, x2, y2))


def _steps(low: float, high: float) -> tuple[int, int]:
    """Both ends in thousandths, at least one apart: a thin box stays one."""
    first = min(round(low * _STEPS), _STEPS - 1)
    return first, max(round(high * _STEPS), first + 1)


def _frame(part: str) -> list[Box] | None:
    contents = _FRAME.findall(part)
    if len(contents) != 1:
        return None
    if contents[0] == NO_BOX:
        return []
    boxes = []
    for text in contents[0].split(BOX_SEPARATOR):
        match = _BOX.fullmatch(text)
        if match is None:
            return None
        x1, y1, x2, y2 = (float(number) for number in match.groups())
        if not (x1 < x2 <= 1 and y1 < y2 <= 1):
            return None
        boxes.append((x1, y1, x2, y2))
    return boxes
