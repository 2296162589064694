"""Which frames a concept sample shows: references with a contour, a plain target, a little noise.

    ──o──o──────o──x──o────T──   o visible, x absent, T the target a few frames after a visible one;
      r         r     r          references: visible frames before it, one to seven, in order
                n                noise: one or two of them show another object's contour instead

As SeC's stage 2 draws them (Zhang et al., 2025). Frames are places among the annotated frames of a
video; "visible" means that the object has a pixel there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

References = Literal["earlier", "any"]
FEWEST = "it is visible on no frame before the last one that is annotated"


@dataclass(frozen=True)
class Shown:
    """A frame, and the object whose contour is drawn on it."""

    frame: int
    key: int


class ConceptDraw:
    """Draws the frames of a sample.

    Args:
        max_references: references at most; their number is drawn evenly from 1 on.
        max_gap: the target lies up to so many annotated frames after a visible one.
        max_noise_objects: other objects that may take the place of references.
        references: ``earlier``: before the target, in the order of time, as inference shows them;
            ``any``: from the whole video in any order, as in SeC's published training.

    Raises:
        ValueError: a number that is too small, or another word.
    """

    def __init__(
        self,
        *,
        max_references: int = 7,
        max_gap: int = 15,
        max_noise_objects: int = 2,
        references: References = "earlier",
    ) -> None:
        if max_references < 1 or max_gap < 1 or max_noise_objects < 0:
            raise ValueError(
                "max_references and max_gap are at least 1, max_noise_objects at least 0; got "
                f"{max_references}, {max_gap} and {max_noise_objects}"
            )
        if references not in ("earlier", "any"):
            raise ValueError(f"references are 'earlier' or 'any', got {references!r}")
        self.max_references = max_references
        self.max_gap = max_gap
        self.max_noise_objects = max_noise_objects
        self.references = references

    def target(
        self, visible: Sequence[int], annotated: Sequence[int], generator: np.random.Generator
    ) -> tuple[int, int]:
        """A visible frame and, some annotated frames later, the target; the object may be gone.

        Args:
            visible: frames that show the object, in order.
            annotated: frames that say whether they do, in order.

        Raises:
            ValueError: no visible frame has one after it.
        """
        place = {frame: number for number, frame in enumerate(annotated)}
        last = len(annotated) - 1
        if not visible or place[visible[0]] == last:
            raise ValueError(FEWEST)
        # a short video has no room for long gaps: they are drawn among those that fit
        gap = int(generator.integers(1, min(self.max_gap, last - place[visible[0]]) + 1))
        starts = [frame for frame in visible if place[frame] + gap <= last]
        start = starts[int(generator.integers(len(starts)))]
        return start, annotated[place[start] + gap]

    def of_object(
        self, visible: Sequence[int], start: int, target: int, generator: np.random.Generator
    ) -> list[int]:
        """Reference frames of the object."""
        if self.references == "earlier":
            frames = [frame for frame in visible if frame < target]
        else:
            frames = [frame for frame in visible if frame not in (start, target)] or [start]
        chosen = self._some(frames, generator)
        return sorted(chosen) if self.references == "earlier" else chosen

    def noise_fits(self, shown: Sequence[Shown]) -> bool:
        """Whether there are references enough for one of them to be noise."""
        return self.max_noise_objects > 0 and len(shown) > 2

    def with_noise(
        self,
        shown: Sequence[Shown],
        others: Mapping[int, Sequence[int]],
        target: int,
        generator: np.random.Generator,
    ) -> list[Shown]:
        """References of which fewer than half, and never the first, show another object.

        Args:
            shown: references of the object.
            others: frames that show each of the other objects.
        """
        if self.references == "earlier":
            others = {key: [f for f in frames if f < target] for key, frames in others.items()}
        keys = [key for key, frames in others.items() if frames]
        objects = int(generator.integers(0, min(self.max_noise_objects, len(keys)) + 1))
        if not objects or not self.noise_fits(shown):
            return list(shown)
        noise = [
            Shown(frame, key)
            for key in generator.choice(keys, size=objects, replace=False).tolist()
            for frame in self._some(others[key], generator)
        ]
        most = min((len(shown) - 1) // 2, len(noise))
        number = int(generator.integers(1, most + 1))
        places = 1 + generator.choice(len(shown) - 1, size=number, replace=False)
        noisy = list(shown)
        for place, which in zip(sorted(places), generator.permutation(len(noise)), strict=False):
            noisy[int(place)] = noise[int(which)]
        return noisy

    def _some(self, frames: Sequence[int], generator: np.random.Generator) -> list[int]:
        """One to ``max_references`` of some frames, in any order."""
        number = min(int(generator.integers(1, self.max_references + 1)), len(frames))
        return [int(frame) for frame in generator.choice(frames, size=number, replace=False)]
