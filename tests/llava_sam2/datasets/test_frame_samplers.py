from __future__ import annotations

import numpy as np
import pytest

from projects.llava_sam2.datasets.frame_samplers import (
    ContiguousFrames,
    FirstFrames,
    RandomFrames,
    UniformFrames,
)

ALL = (UniformFrames, RandomFrames, ContiguousFrames, FirstFrames)


@pytest.mark.parametrize("sampler", ALL)
def test_sorted_distinct_in_range_and_short_videos_give_all(sampler):
    for count in range(1, 30):
        for num in (1, 2, 5, 7):
            frames = sampler(num=num)(count, np.random.default_rng(count))
            assert len(frames) == min(num, count)
            assert frames == sorted(set(frames))
            assert 0 <= frames[0] and frames[-1] < count
            assert all(type(frame) is int for frame in frames)
    with pytest.raises(ValueError, match="at least 1"):
        sampler(num=0)
    with pytest.raises(ValueError, match="without frames"):
        sampler(num=1)(0, np.random.default_rng(0))


def test_uniform_reaches_both_ends():
    generator = np.random.default_rng(0)
    assert UniformFrames(num=5)(9, generator) == [0, 2, 4, 6, 8]
    assert UniformFrames(num=3)(1000, generator) == [0, 500, 999]
    assert UniformFrames(num=1)(9, generator) == [4]
    assert FirstFrames(num=3)(9, generator) == [0, 1, 2]


def test_random_and_contiguous_cover_the_video():
    def seen(sampler):
        return {tuple(sampler(8, np.random.default_rng(seed))) for seed in range(300)}

    runs = seen(ContiguousFrames(num=3))
    assert runs == {(start, start + 1, start + 2) for start in range(6)}
    assert len(seen(RandomFrames(num=2))) == 28  # every pair of 8
