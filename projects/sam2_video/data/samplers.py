"""Which frames of a video and which of its objects a clip takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class UniformSampler:
    """T frames, ``stride`` apart, from a uniformly drawn start; up to ``max_objects`` objects.

    Follows the random sampler of SAM 2's training: with probability ``reverse_time_prob`` the clip
    runs backwards in time.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        max_objects: int,
        stride: int = 1,
        reverse_time_prob: float = 0.0,
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

    @property
    def min_frames(self) -> int:
        """The shortest video that a clip can be drawn from."""
        return (self.num_frames - 1) * self.stride + 1

    def frames(self, video_frames: int, rng: np.random.Generator) -> list[int]:
        """T frame indices below ``video_frames``, ascending or (reversed clips) descending."""
        start = int(rng.integers(video_frames - self.min_frames + 1))
        indices = [start + self.stride * step for step in range(self.num_frames)]
        return indices[::-1] if rng.random() < self.reverse_time_prob else indices

    def objects(self, visible: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Up to ``max_objects`` of the ids that are visible on the clip's first frame."""
        count = min(len(visible), self.max_objects)
        return [int(i) for i in rng.choice(np.asarray(visible), count, replace=False)]


class EverythingSampler:
    """All frames in order and all objects of the first one, as in evaluation."""

    min_frames = 1

    def frames(self, video_frames: int, rng: np.random.Generator) -> list[int]:
        return list(range(video_frames))

    def objects(self, visible: Sequence[int], rng: np.random.Generator) -> list[int]:
        return list(visible)
