from __future__ import annotations

import numpy as np
import pytest

from projects.llava_sam2.datasets.frame_samplers import (
    AroundFrames,
    ContiguousFrames,
    FirstFrames,
    RandomFrames,
    UniformFrames,
)

ALL = (UniformFrames, RandomFrames, ContiguousFrames, FirstFrames, AroundFrames)


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


def test_jitter_draws_one_frame_of_each_part():
    sampler = UniformFrames(num=3, jitter=True)
    drawn = np.array([sampler(10, np.random.default_rng(seed)) for seed in range(200)])
    parts = [set(column) for column in drawn.T]
    assert parts == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8, 9}]
    assert sampler(10, np.random.default_rng(7)) == sampler(10, np.random.default_rng(7))
    assert 4 in sampler(10, np.random.default_rng(0), target=4)


def test_random_and_contiguous_cover_the_video():
    def seen(sampler):
        return {tuple(sampler(8, np.random.default_rng(seed))) for seed in range(300)}

    runs = seen(ContiguousFrames(num=3))
    assert runs == {(start, start + 1, start + 2) for start in range(6)}
    assert len(seen(RandomFrames(num=2))) == 28  # every pair of 8


@pytest.mark.parametrize("sampler", ALL)
def test_the_target_is_among_the_frames(sampler):
    for count in range(1, 20):
        for num in (1, 2, 5):
            for target in range(count):
                rng = np.random.default_rng(target)
                frames = sampler(num=num)(count, rng, target=target)
                assert target in frames and frames == sorted(set(frames))
                assert len(frames) == min(num, count) and 0 <= frames[0] and frames[-1] < count
    with pytest.raises(ValueError, match="frame 9 is not within a video of 9 frames"):
        sampler(num=2)(9, np.random.default_rng(0), target=9)


def test_around_the_target():
    generator = np.random.default_rng(0)
    around = AroundFrames(num=5, stride=3)
    assert around(40, generator, target=20) == [14, 17, 20, 23, 26]
    assert around(40, generator, target=1) == [1, 4, 7, 10, 13]  # moved inside
    assert around(40, generator, target=38) == [26, 29, 32, 35, 38]
    assert around(12, generator, target=6) == [2, 4, 6, 8, 10]  # closer together where too short
    assert {around(40, np.random.default_rng(seed))[0] for seed in range(200)} >= {0, 10, 20}
    with pytest.raises(ValueError, match="starts at 1"):
        AroundFrames(num=5, stride=0)


def test_a_target_moves_no_more_than_it_must():
    generator = np.random.default_rng(0)
    assert UniformFrames(num=3)(101, generator, target=40) == [0, 40, 100]
    assert FirstFrames(num=3)(9, generator, target=7) == [0, 1, 7]
    seen = {tuple(RandomFrames(num=2)(6, np.random.default_rng(s), target=2)) for s in range(200)}
    assert seen == {(0, 2), (1, 2), (2, 3), (2, 4), (2, 5)}
    runs = {ContiguousFrames(num=3)(9, np.random.default_rng(s), target=4)[0] for s in range(99)}
    assert runs == {2, 3, 4}
