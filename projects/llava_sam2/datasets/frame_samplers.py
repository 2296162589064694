"""Which frames of a video the language model sees.

One object for training, evaluation and the demo: called with the number of frames of the video and
a generator, it returns sorted, distinct indices. A video that is shorter gives all its frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class FrameSampler(Protocol):
    num: int  # frames at most

    def __call__(
        self, count: int, generator: np.random.Generator, *, target: int | None = None
    ) -> list[int]: ...


class _Sampler:
    def __init__(self, *, num: int) -> None:
        if num < 1:
            raise ValueError(f"a frame sampler takes at least 1 frame, got num={num}")
        self.num = num

    def __call__(
        self, count: int, generator: np.random.Generator, *, target: int | None = None
    ) -> list[int]:
        """Sorted indices, ``min(num, count)`` of them, within 0..count - 1.

        Args:
            count: frames of the video.
            target: a frame that must be among them: the one that is asked about.

        Raises:
            ValueError: a video without frames, or a target outside of it.
        """
        if count < 1:
            raise ValueError("a video without frames cannot be sampled")
        if target is not None and not 0 <= target < count:
            raise ValueError(f"frame {target} is not within a video of {count} frames")
        if count <= self.num:
            return list(range(count))
        return [int(index) for index in self.pick(count, generator, target)]

    def pick(
        self, count: int, generator: np.random.Generator, target: int | None
    ) -> Sequence[int] | np.ndarray:
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class UniformFrames(_Sampler):
    """Evenly spaced, first and last frame included; a single one is the middle one.

    Args:
        jitter: draw one frame of each of ``num`` equal parts of the video instead: as far apart,
            but others each time. For training, which would never see the rest of a video otherwise.
    """

    def __init__(self, *, num: int, jitter: bool = False) -> None:
        super().__init__(num=num)
        self.jitter = jitter

    def pick(
        self, count: int, generator: np.random.Generator, target: int | None
    ) -> Sequence[int] | np.ndarray:
        if self.jitter:
            edges = np.arange(self.num + 1) * count // self.num
            return _with(generator.integers(edges[:-1], edges[1:]), target)
        single = [(count - 1) // 2]
        even = single if self.num == 1 else np.linspace(0, count - 1, self.num).round()
        return _with(even, target)


class RandomFrames(_Sampler):
    """Any frames, in the order of time."""

    def pick(
        self, count: int, generator: np.random.Generator, target: int | None
    ) -> Sequence[int] | np.ndarray:
        if target is None:
            return np.sort(generator.choice(count, size=self.num, replace=False))
        others = generator.choice(count - 1, size=self.num - 1, replace=False)
        return np.sort(np.append(others + (others >= target), target))


class ContiguousFrames(_Sampler):
    """Neighbouring frames at a random place."""

    def pick(
        self, count: int, generator: np.random.Generator, target: int | None
    ) -> Sequence[int] | np.ndarray:
        low, high = 0, count - self.num
        if target is not None:
            low, high = max(low, target - self.num + 1), min(high, target)
        start = int(generator.integers(low, high + 1))
        return range(start, start + self.num)


class AroundFrames(_Sampler):
    """A target frame with those around it, ``stride`` frames apart; a target that is not given is
    drawn. At the ends of the video the window moves inside, so that there are ``num`` all the same.

    Args:
        stride: frames from one to the next; smaller where the video is too short for it.
    """

    def __init__(self, *, num: int, stride: int = 1) -> None:
        super().__init__(num=num)
        if stride < 1:
            raise ValueError(f"the stride between frames starts at 1, got {stride}")
        self.stride = stride

    def pick(
        self, count: int, generator: np.random.Generator, target: int | None
    ) -> Sequence[int] | np.ndarray:
        if target is None:
            target = int(generator.integers(count))
        # 11 frames hold 3 with a stride of 5, but only around frame 5: from 1 or 9 it is 4 apart
        stride = self.stride
        while True:
            before, after = target // stride, (count - 1 - target) // stride
            if before + after + 1 >= self.num:
                break
            stride -= 1
        left = min(max((self.num - 1) // 2, self.num - 1 - after), before)
        return range(target - left * stride, target + (self.num - left) * stride, stride)


class FirstFrames(_Sampler):
    """The first frames, as the released Sa2VA's inference does."""

    def pick(
        self, count: int, generator: np.random.Generator, target: int | None
    ) -> Sequence[int] | np.ndarray:
        return _with(range(self.num), target)


def _with(indices: Sequence[int] | np.ndarray, target: int | None) -> list[int]:
    """``indices``, where the nearest to ``target`` gives way to it."""
    chosen = [int(index) for index in indices]
    if target is not None:
        nearest = min(range(len(chosen)), key=lambda place: abs(chosen[place] - target))
        chosen[nearest] = target
    return sorted(chosen)
