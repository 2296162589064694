"""What can be seen to hold in a scene, three-valued: True, False, or None for "hard to say".

Measured from the visible masks, not from the plan, so that a sentence is true of the pixels. An
expression may only be used where nothing about it is hard to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from projects.toy_world.scene import Scene

_LEAST_AREA = 20  # px: less of a thing has no place
_LEAST_STEP = 6.0  # px by which the leftmost must be ahead
_LEAST_OFFSET = 10.0  # px between centres for "left of"
_LEAST_RATIO = 1.3  # of areas, for "largest"
_LEAST_HIDDEN = 15  # px, for "in front of"

# Word -> (axis of x, y; sign). The thing with the most of sign * coordinate is it.
EXTREMES: dict[str, tuple[int, int]] = {
    "leftmost": (0, -1),
    "rightmost": (0, 1),
    "topmost": (1, -1),
    "lowest": (1, 1),
}
EXTENTS: dict[str, int] = {"largest": 1, "smallest": -1}
SIDES: dict[str, tuple[int, int]] = {
    "left of": (0, -1),
    "right of": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
}


class Facts:
    """Measurements of one scene; T frames, N things."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.areas = scene.masks.sum(axis=(2, 3))  # [T, N]
        self.seen = self.areas >= _LEAST_AREA
        self.centres = _centres(scene.masks, self.areas)  # [T, N, 2]

    def extreme(self, word: str, among: Sequence[int]) -> int | None:
        """The leftmost (...) of some things: so on every frame on which it is seen."""
        axis, sign = EXTREMES[word]
        place = np.where(self.seen, sign * self.centres[..., axis], -np.inf)[:, among]
        best = int(np.argmax(np.max(place, axis=0)))
        rest = np.delete(place, best, axis=1).max(axis=1)
        frames = self.seen[:, among[best]]
        ahead = place[frames, best] - rest[frames] >= _LEAST_STEP
        return among[best] if bool(ahead.all()) else None

    def extent(self, word: str, among: Sequence[int]) -> int | None:
        """The largest or smallest of some things, by what is seen of each at its best."""
        sizes = EXTENTS[word] * np.log(self.areas.max(axis=0)[list(among)])
        order = np.argsort(sizes)
        clear = sizes[order[-1]] - sizes[order[-2]] >= np.log(_LEAST_RATIO)
        return among[int(order[-1])] if clear else None

    def beside(self, word: str, thing: int, other: int) -> bool | None:
        """Whether a thing is left of (...) another on all frames that show both."""
        axis, sign = SIDES[word]
        both = self.seen[:, thing] & self.seen[:, other]
        if not both.any():
            return None
        offset = (self.centres[:, thing] - self.centres[:, other])[both]
        along, across = sign * offset[:, axis], np.abs(offset[:, 1 - axis])
        if bool(((along >= _LEAST_OFFSET) & (along >= across)).all()):
            return True
        return False if bool((along <= 0).all()) else None

    def in_front(self, thing: int, other: int) -> bool | None:
        """Whether a thing hides part of another on some frame."""
        hidden = self.scene.hidden[:, thing, other].max()
        return True if hidden >= _LEAST_HIDDEN else (False if hidden == 0 else None)

    def passes(self, thing: int, other: int) -> bool | None:
        """Whether a moving thing hides part of another on some frames, and none of it on others."""
        in_front = self.in_front(thing, other)
        if in_front is not True:
            return in_front
        if self.scene.things[thing].motion == "still":
            return False
        both = self.seen[:, thing] & self.seen[:, other]
        apart = self.scene.hidden[:, thing, other] == 0
        return True if bool((both & apart).any()) else None


def _centres(masks: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Centres (x, y) of the visible pixels, float [T, N, 2]; 0 where nothing is visible."""
    height, width = masks.shape[2:]
    count = np.maximum(areas, 1)
    x = (masks.sum(axis=2) * (np.arange(width) + 0.5)).sum(axis=-1) / count
    y = (masks.sum(axis=3) * (np.arange(height) + 0.5)).sum(axis=-1) / count
    return np.stack([x, y], axis=-1)
