"""Which frames of a video and which of its objects a clip takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class UniformSampler:
    """T frames, every ``stride``-th, from a uniformly drawn start; up to ``max_objects`` objects.

    Follows the random sampler of SAM 2's training: with probability ``reverse_time_prob`` the clip
    runs backwards in time. SeC's stage 1 takes every 2nd annotated frame: ``num_frames=30,
    stride=2, max_objects=2``.

    Args:
        late_objects: draw among the objects that any frame of the clip shows. By default, as in
            SAM 2's training, an object must be visible on the first one.
        repeat_short: take a video that is too short with a smaller stride, and hold its last frame
            where even that does not do. By default such a video is an error.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        max_objects: int,
        stride: int = 1,
        reverse_time_prob: float = 0.0,
        late_objects: bool = False,
        repeat_short: bool = False,
    ) -> None:
        if num_frames < 1 or max_objects < 1 or stride < 1 or not 0 <= reverse_time_prob <= 1:
            raise ValueError(
                "UniformSampler wants num_frames, max_objects and stride >= 1 and a "
                f"reverse_time_prob in 0..1, got {num_frames}, {max_objects}, {stride}, "
                f"{reverse_time_prob}"
            )
        self.num_frames = num_frames
        self.max_objects = max_objects
        self.stride = stride
        self.reverse_time_prob = reverse_time_prob
        self.late_objects = late_objects
        self.repeat_short = repeat_short

    @property
    def min_frames(self) -> int:
        """The shortest video that a clip can be drawn from."""
        return 1 if self.repeat_short else (self.num_frames - 1) * self.stride + 1

    def frames(self, video_frames: int, rng: np.random.Generator) -> list[int]:
        """T frame indices below ``video_frames``, ascending or (reversed clips) descending."""
        stride = self.stride
        if self.repeat_short and self.num_frames > 1:
            stride = max(1, min(stride, (video_frames - 1) // (self.num_frames - 1)))
        span = (self.num_frames - 1) * stride + 1
        start = int(rng.integers(max(video_frames - span, 0) + 1))
        last = video_frames - 1
        indices = [min(start + stride * step, last) for step in range(self.num_frames)]
        return indices[::-1] if rng.random() < self.reverse_time_prob else indices

    def objects(self, visible: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Up to ``max_objects`` of the ids that may be taken."""
        count = min(len(visible), self.max_objects)
        return [int(i) for i in rng.choice(np.asarray(visible), count, replace=False)]


class EverythingSampler:
    """All frames in order and all objects of the first one (or of any), as in evaluation."""

    min_frames = 1

    def __init__(self, *, late_objects: bool = False) -> None:
        self.late_objects = late_objects

    def frames(self, video_frames: int, rng: np.random.Generator) -> list[int]:
        return list(range(video_frames))

    def objects(self, visible: Sequence[int], rng: np.random.Generator) -> list[int]:
        return list(visible)
