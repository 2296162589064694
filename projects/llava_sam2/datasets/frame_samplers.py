"""Which frames of a video the language model sees.

One object for training, evaluation and the demo: called with the number of frames of the video and
a generator, it returns sorted, distinct indices. A video that is shorter gives all its frames.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FrameSampler = Callable[[int, np.random.Generator], list[int]]


class _Sampler:
    def __init__(self, *, num: int) -> None:
        if num < 1:
            raise ValueError(f"a frame sampler takes at least 1 frame, got num={num}")
        self.num = num

    def __call__(self, count: int, generator: np.random.Generator) -> list[int]:
        """Sorted indices, ``min(num, count)`` of them, within 0..count - 1."""
        if count < 1:
            raise ValueError("a video without frames cannot be sampled")
        if count <= self.num:
            return list(range(count))
        return [int(index) for index in self.pick(count, generator)]

    def pick(self, count: int, generator: np.random.Generator) -> np.ndarray | range:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num={self.num})"


class UniformFrames(_Sampler):
    """Evenly spaced, first and last frame included; a single one is the middle one."""

    def pick(self, count: int, generator: np.random.Generator) -> np.ndarray | range:
        if self.num == 1:
            return range((count - 1) // 2, (count - 1) // 2 + 1)
        return np.linspace(0, count - 1, self.num).round()


class RandomFrames(_Sampler):
    """Any frames, in the order of time."""

    def pick(self, count: int, generator: np.random.Generator) -> np.ndarray | range:
        return np.sort(generator.choice(count, size=self.num, replace=False))


class ContiguousFrames(_Sampler):
    """Neighbouring frames at a random place."""

    def pick(self, count: int, generator: np.random.Generator) -> np.ndarray | range:
        start = int(generator.integers(count - self.num + 1))
        return range(start, start + self.num)


class FirstFrames(_Sampler):
    """The first frames, as the released Sa2VA's inference does."""

    def pick(self, count: int, generator: np.random.Generator) -> np.ndarray | range:
        return range(self.num)
