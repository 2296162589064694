"""Mean J and F of the objects of a video, frame by frame; shared by all VOS evaluations.

The rules are those of SA-V's evaluator (Meta's ``sav_evaluator.py``, after ``vos-benchmark``):

- The first and the last of an object's annotated frames are left out, the first because its mask is
  given, the last as DAVIS does. Of palette PNGs these are the video's frames, of a folder of PNGs
  per object those of the folder.
- An object counts from the first of the remaining frames on which its annotation or its prediction
  shows it: frames before a late object appears neither help nor harm.
- An object that no remaining frame annotates has no score.
- The score of a data set is the mean over all its objects, whichever video they are in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from projects.sam2_video.evaluation.davis import frame_scores

Frame = TypeVar("Frame")


class ObjectScore(NamedTuple):
    """Means over ``frames`` frames, in 0..1."""

    region: float
    boundary: float
    frames: int

    @property
    def mean(self) -> float:
        return (self.region + self.boundary) / 2


class VideoScorer:
    """Takes the masks of a video frame by frame and keeps their scores only."""

    def __init__(self) -> None:
        self._frames: dict[int, list[tuple[float, float]]] = {}
        self._annotated: set[int] = set()

    @property
    def started(self) -> set[int]:
        """Objects that were annotated or predicted so far."""
        return set(self._frames)

    def add(self, key: int, prediction: np.ndarray, truth: np.ndarray) -> None:
        """One object on one scored frame, bool ``[H, W]`` each; frames come in order.

        Raises:
            ValueError: the masks differ in size.
        """
        annotated = bool(truth.any())
        if annotated:
            self._annotated.add(key)
        if annotated or key in self._frames or prediction.any():
            self._frames.setdefault(key, []).append(frame_scores(prediction, truth))

    def scores(self) -> dict[int, ObjectScore]:
        """Every object that was annotated, by its id."""
        scores = {}
        for key in sorted(self._annotated):
            region, boundary = np.mean(self._frames[key], axis=0)
            scores[key] = ObjectScore(float(region), float(boundary), len(self._frames[key]))
        return scores


def scored_frames(frames: Sequence[Frame], *, skip_first_and_last: bool) -> Sequence[Frame]:
    """The annotated frames of an object, in order, that enter its score."""
    return frames[1:-1] if skip_first_and_last else frames


def mean_scores(scores: Iterable[tuple[float, float]]) -> dict[str, float]:
    """``J``, ``F`` and ``J&F`` over (J, F) of objects.

    Raises:
        ValueError: no object.
    """
    listed = list(scores)
    if not listed:
        raise ValueError("no object has a score: nothing is annotated on a frame that counts")
    region, boundary = (float(value) for value in np.mean(listed, axis=0))
    return {"J&F": (region + boundary) / 2, "J": region, "F": boundary}
