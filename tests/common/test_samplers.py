from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from projects.common.samplers import (
    WINDOW,
    StepBatchSampler,
    epoch_steps,
    repeats_of_weights,
)

LENGTHS, REPEATS, TASKS = [37, 20, 11], [1.0, 2.5, 3.0], ["image", "video", "image"]
SIZES = {"image": 37 + 33, "video": 50}  # draws of a pass


def make(**changes) -> StepBatchSampler:
    settings = dict(
        lengths=LENGTHS, repeats=REPEATS, tasks=TASKS, batch_size=4, seed=7, max_steps=200
    )
    return StepBatchSampler(**{**settings, **changes})


def stream(sampler: StepBatchSampler, task: str) -> list[tuple[int, int]]:
    """(dataset, index) of a task in the order of the steps."""
    draws = [draw for batch in sampler for draw in batch]
    return [(d.dataset, d.index) for d in draws if TASKS[d.dataset] == task]


def test_each_batch_holds_one_task():
    for batch in make():
        assert len({TASKS[draw.dataset] for draw in batch}) == 1


@pytest.mark.parametrize("task", ["image", "video"])
def test_every_pass_is_complete_and_without_duplicates(task):
    rows = stream(make(), task)
    size = SIZES[task]
    passes = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
    assert len(passes) >= 3
    for one in passes:
        counts = Counter(one)
        for dataset, length in enumerate(LENGTHS):
            if TASKS[dataset] != task:
                continue
            times = [counts[(dataset, index)] for index in range(length)]
            whole, extra = int(REPEATS[dataset]), round(REPEATS[dataset] % 1 * length)
            assert Counter(times) == Counter({whole: length - extra, whole + 1: extra}) - Counter()
    assert passes[0] != passes[1]  # reshuffled


def test_the_random_part_of_a_fractional_repeat_changes():
    rows = stream(make(), "video")
    extras = []
    for start in (0, 50):
        counts = Counter(rows[start : start + 50])
        extras.append({key for key, times in counts.items() if times == 3})
    assert len(extras[0]) == len(extras[1]) == 10 and extras[0] != extras[1]


@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_ranks_share_the_global_batch(world_size):
    whole = make(batch_size=16, max_steps=60)
    ranks = [
        make(batch_size=16 // world_size, rank=r, world_size=world_size, max_steps=60)
        for r in range(world_size)
    ]
    for step, expected in enumerate(whole):
        slices = [rank.batch(step) for rank in ranks]
        assert [draw for part in slices for draw in part] == expected  # seeds included


def test_tasks_come_in_proportion():
    steps = 1200
    tasks = Counter(TASKS[batch[0].dataset] for batch in make(max_steps=steps))
    assert tasks["image"] == pytest.approx(steps * 70 / 120, abs=2)
    # and not in blocks: each stretch of two epochs has about its share
    order = [TASKS[batch[0].dataset] == "image" for batch in make(max_steps=steps)]
    shares = np.array(order).reshape(-1, 60).mean(axis=1)
    assert np.all(np.abs(shares - 70 / 120) < 0.03)


def test_a_resumed_run_sees_what_it_would_have_seen():
    whole = list(make())
    for start in (1, 17, 30, 199):
        resumed = make(start_step=start)
        assert len(resumed) == 200 - start
        assert list(resumed) == whole[start:]


def test_starting_late_costs_no_walk_through_what_was_before():
    sampler = make(max_steps=10**12 + 2, start_step=10**12)
    assert len(list(sampler)) == 2
    assert sampler.batch(10**12) == make().batch(10**12)


def test_order_and_draws_depend_on_the_seed():
    assert list(make(seed=1)) != list(make(seed=2))
    assert list(make(seed=1)) == list(make(seed=1))
    seeds = [draw.seed for batch in make() for draw in batch]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)


def test_more_than_a_pass_in_one_batch():
    sampler = make(lengths=[3], repeats=[1.0], tasks=["a"], batch_size=8, max_steps=3)
    rows = [draw.index for batch in sampler for draw in batch]
    assert all(sorted(rows[i : i + 3]) == [0, 1, 2] for i in range(0, 24, 3))


def test_a_dataset_is_switched_off_by_repeat_zero():
    sampler = make(repeats=[1.0, 0.0, 1.0])
    assert {draw.dataset for batch in sampler for draw in batch} == {0, 2}


def test_steps_of_an_epoch():
    assert epoch_steps(LENGTHS, REPEATS, [4, 4, 4]) == 30
    assert epoch_steps([10], [1.3], [4]) == 3.25  # 10 + 3 draws
    assert epoch_steps(LENGTHS, REPEATS, [4, 10, 4]) == 22.5  # 70 / 4 + 50 / 10
    assert make(batch_sizes=[4, 10, 4]).epoch_steps == 22.5


def test_datasets_of_one_task_may_have_batches_of_their_own():
    """Images of SA-1B by the dozen, clips one at a time, all of one task."""
    lengths, repeats, sizes = [37, 20, 11], [1.0, 2.5, 3.0], [8, 2, 2]
    sampler = make(tasks=["track"] * 3, batch_sizes=sizes, max_steps=370)
    assert sampler.epoch_steps == 37 / 8 + 50 / 2 + 33 / 2  # 46.125
    batches = list(sampler)[: 8 * 46 + 1]  # 8 epochs
    counts = Counter()
    for step, batch in enumerate(batches):
        datasets = {draw.dataset for draw in batch}
        assert datasets == {0} or 0 not in datasets  # its own batches, the others mixed
        assert len(batch) == sizes[min(datasets)]
        assert sampler.samples_of(step) == len(batch)
        counts.update((draw.dataset, draw.index) for draw in batch)
    per_dataset = Counter()
    for (dataset, _), times in counts.items():
        per_dataset[dataset] += times
    expected = {d: 8 * round(n * r) for d, (n, r) in enumerate(zip(lengths, repeats, strict=True))}
    assert per_dataset == expected
    assert {times for (dataset, _), times in counts.items() if dataset == 0} == {8}
    assert {times for (dataset, _), times in counts.items() if dataset == 2} == {24}


def test_a_task_may_have_batches_of_its_own_size():
    sizes = {"image": 4, "video": 10}
    sampler = make(batch_sizes=[4, 10, 4], max_steps=450)  # 20 passes of 22.5 steps
    batches = list(sampler)
    tasks = [TASKS[batch[0].dataset] for batch in batches]
    for task, batch in zip(tasks, batches, strict=True):
        assert {TASKS[draw.dataset] for draw in batch} == {task}
        assert len(batch) == sizes[task]
    # still in proportion to the data, and complete: 20 passes over 70 images and over 50 videos
    assert Counter(tasks) == {"image": 350, "video": 100}
    for task, size in SIZES.items():
        rows = stream(sampler, task)
        assert len(rows) == 20 * size
        assert Counter(rows[:size]) != Counter() and len(set(rows)) == len(set(rows[:size]))
    assert list(make(batch_sizes=[4, 10, 4], start_step=123, max_steps=450)) == batches[123:]
    halves = [
        make(batch_sizes=[2, 5, 2], batch_size=2, rank=rank, world_size=2, max_steps=450)
        for rank in range(2)
    ]
    for step in (0, 7, 23, 449):
        assert halves[0].batch(step) + halves[1].batch(step) == batches[step]


def test_naming_the_common_size_changes_nothing():
    assert list(make(batch_sizes=[4, 4, 4])) == list(make())


# ---- grouped by length ----------------------------------------------------------------------

TOKENS = np.random.default_rng(0).integers(20, 4000, size=3000)  # of one large dataset


def grouped(**changes) -> StepBatchSampler:
    settings = dict(
        lengths=[3000, 50],
        repeats=[1.0, 1.0],
        tasks=["image", "video"],
        batch_size=8,
        seed=3,
        max_steps=1200,
        length_of=lambda dataset, index: int(TOKENS[index]) if dataset == 0 else 7,
    )
    return StepBatchSampler(**{**settings, **changes})


@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_grouped_ranks_share_the_global_batch_and_every_pass_is_complete(world_size):
    whole = grouped(batch_size=16, max_steps=600)
    ranks = [
        grouped(batch_size=16 // world_size, rank=rank, world_size=world_size, max_steps=600)
        for rank in range(world_size)
    ]
    rows = []
    for step in range(600):
        batch = whole.batch(step)
        assert [draw for rank in ranks for draw in rank.batch(step)] == batch
        rows += [draw.index for draw in batch if draw.dataset == 0]
    passes = [rows[start : start + 3000] for start in (0, 3000, 6000)]
    for one in passes:
        assert sorted(one) == list(range(3000))  # disjoint and complete
    assert passes[0] != passes[1]


def test_grouped_batches_hold_similar_lengths():
    def spread(sampler) -> float:
        """Mean over the batches of the longest over the mean length: what padding costs."""
        batches = [TOKENS[[d.index for d in b]] for b in sampler if b[0].dataset == 0]
        return float(np.mean([lengths.max() / lengths.mean() for lengths in batches]))

    assert spread(grouped(length_of=None)) > 1.6
    assert spread(grouped()) < 1.05
    # not from short to long: neighbouring steps of a window are as different as any two
    means = [TOKENS[[d.index for d in b]].mean() for b in grouped() if b[0].dataset == 0]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


def test_a_grouped_run_resumes_and_measures_only_what_it_comes_to():
    whole = list(grouped())
    measured = []

    def length_of(dataset, index):
        measured.append(index)
        return int(TOKENS[index]) if dataset == 0 else 7

    for start in (1, 377, 390, 1199):
        resumed = grouped(start_step=start, length_of=length_of)
        assert list(resumed) == whole[start:]
    measured.clear()
    grouped(length_of=length_of).batch(1_000_000)
    assert len(measured) <= WINDOW * 8


def test_lengths_that_are_all_alike_drop_nothing():
    for length in (1, 5, 8, 9, 400, 401):  # shorter than a batch, a batch, and windows
        sampler = grouped(lengths=[length], repeats=[1.0], tasks=["a"], max_steps=300)
        rows = [draw.index for batch in sampler for draw in batch]
        for start in range(0, len(rows) - length + 1, length):
            assert sorted(rows[start : start + length]) == list(range(length))


def test_weights_draw_in_proportion():
    lengths, weights = [100, 1000, 10], [1.0, 1.0, 2.0]
    repeats = repeats_of_weights(lengths, weights)
    assert repeats == pytest.approx([2.775, 0.2775, 55.5])
    draws = [repeat * length for repeat, length in zip(repeats, lengths, strict=True)]
    assert sum(draws) == pytest.approx(sum(lengths)) and draws[2] == pytest.approx(2 * draws[0])
    sampler = make(lengths=lengths, repeats=repeats, tasks=["a"] * 3, max_steps=1110)
    counts = Counter(draw.dataset for batch in sampler for draw in batch)
    assert counts[0] == pytest.approx(1110, abs=8) and counts[2] == pytest.approx(2220, abs=8)
    for wrong in ([1.0, -1.0, 1.0], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="weights"):
            repeats_of_weights(lengths, wrong)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(lengths=[37, 0, 11]), "dataset 1 .*'video'.* is empty"),
        (dict(repeats=[1.0, -1.0, 1.0]), "dataset 1 .*repeat -1.0"),
        (dict(repeats=[1.0, float("nan"), 1.0]), "repeat nan"),
        (dict(repeats=[0.0, 0.0, 0.0]), "nothing to draw"),
        (dict(tasks=["image"]), "3 lengths, 3 repeats and 1 tasks"),
        (dict(rank=2, world_size=2), "rank 2 of 2"),
        (dict(batch_sizes=[4, 0, 4]), "batch size 0"),
        (dict(batch_sizes=[4]), "1 batch_sizes for 3 datasets"),
    ],
)
def test_mistakes_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)
