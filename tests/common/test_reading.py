"""Samples that cannot be read: named, or replaced alike and counted."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from projects.common.engine.check import check_config
from projects.common.engine.loader import build_train_loader
from projects.common.reading import Mixture, SampleEvent
from projects.common.samplers import Draw


@dataclass
class Sample:
    name: str
    seed: int
    events: list[SampleEvent] = field(default_factory=list)


class Numbers:
    """Sample i is called "<letter>i"; those of ``bad`` cannot be read."""

    def __init__(self, letter: str, length: int, *, task: str, bad=(), error=ValueError) -> None:
        self.letter, self.length, self.task = letter, length, task
        self.bad, self.error = set(bad), error

    def __len__(self):
        return self.length

    def __getitem__(self, draw):
        if draw.index in self.bad:
            raise self.error(f"{self.letter}{draw.index}.jpg: truncated")
        return Sample(f"{self.letter}{draw.index}", draw.seed)


def mixture(on_read_error="skip", **changes) -> Mixture:
    datasets = [
        Numbers("a", 6, task="image", **{"bad": {2, 3}, **changes}),
        Numbers("b", 3, task="image"),
        Numbers("c", 50, task="video"),
        Numbers("d", 50, task="image"),  # switched off
    ]
    return Mixture(
        datasets,
        names=["refcoco", "train[1]", "mevis", "off"],
        groups=["image", "image", "video", None],
        on_read_error=on_read_error,
    )


def test_an_error_names_dataset_sample_and_file():
    with pytest.raises(ValueError, match="a2.jpg: truncated") as raised:
        mixture("error")[Draw(0, 2, 5)]
    assert str(raised.value).startswith("dataset refcoco (task 'image'), sample 2: ")
    assert "on_read_error='skip'" in str(raised.value)
    assert mixture("error")[Draw(1, 2, 5)].events == []


def test_skip_takes_one_of_the_same_task_always_the_same():
    data = mixture()
    found = [data[Draw(0, 2, seed)] for seed in range(200)]
    assert found == [data[Draw(0, 2, seed)] for seed in range(200)]
    assert {sample.name for sample in found} == {"a0", "a1", "a4", "a5", "b0", "b1", "b2"}
    for seed, sample in enumerate(found):
        assert sample.seed == seed
        first = "dataset refcoco (task 'image'), sample 2: a2.jpg: truncated"
        assert sample.events[0] == SampleEvent("bad_sample", first)
    # 2 of 9 are bad, so some replacements were bad themselves: they are counted as well
    assert {len(sample.events) for sample in found} >= {1, 2}
    assert data[Draw(0, 4, 0)].events == []


def test_broken_data_stops_the_run_and_bugs_are_not_swallowed():
    with pytest.raises(ValueError, match="20 samples in a row are bad, at last: dataset"):
        data = mixture(bad=range(6), error=FileNotFoundError)
        data.groups[1] = "other"
        data[Draw(0, 0, 0)]
    with pytest.raises(KeyError):
        mixture(error=KeyError)[Draw(0, 2, 0)]
    with pytest.raises(ValueError, match="'error' or 'skip'"):
        mixture("replace")


def loader(**changes):
    settings = dict(
        datasets=[
            {"dataset": dict(type=Numbers, letter="a", length=8, task="t", bad={1})},
            {"dataset": dict(type=Numbers, letter="b", length=40, task="t"), "name": "big"},
        ],
        batch_size=4,
        collate=list,
        max_steps=24,
        max_epochs=None,
        seed=0,
        rank=0,
        world_size=1,
    )
    return build_train_loader(**{**settings, **changes})


def test_the_loader_skips_and_a_resumed_one_skips_alike():
    def names(skipping):
        return [[sample.name for sample in item["batch"]] for item in skipping]

    whole = names(loader(on_read_error="skip"))
    late = loader(on_read_error="skip")
    late.batch_sampler.start_step = 5
    assert len(whole) == 24 and names(late) == whole[5:]
    assert "a1" not in sum(whole, [])
    with pytest.raises(ValueError, match=r"dataset train\[0\] \(task 't'\), sample 1: a1.jpg"):
        list(loader())


def test_weights_in_the_loader():
    entries = [
        {"dataset": dict(type=Numbers, letter="a", length=8, task="t"), "weight": 1},
        {"dataset": dict(type=Numbers, letter="b", length=40, task="t"), "weight": 1},
    ]
    names = [s.name[0] for item in loader(datasets=entries) for s in item["batch"]]
    assert names.count("a") == names.count("b") == 48


def test_groups_by_length_want_lengths():
    with pytest.raises(ValueError, match="Numbers cannot tell how long"):
        loader(group_by_length=True)


def test_mistakes_of_the_loader_are_found_by_the_config_check():
    dataset = dict(type=Numbers, letter="a", length=8, task="t")
    tree = dict(
        model=dict(type=Numbers, letter="m", length=1, task="t"),
        train_dataloader=dict(
            datasets=[
                dict(dataset=dataset, name="x", weight=1),
                dict(dataset=dataset, name="x", weight=1, repeat=2),
                dict(dataset=dataset, repaet=1),
            ],
            batch_size=1,
            collate=list,
            on_read_error="ignore",
        ),
    )
    with pytest.raises(ValueError) as raised:
        check_config(tree, train=False)
    said = str(raised.value)
    for words in (
        "datasets[1]: give every entry a weight",
        "datasets[2]: give every entry a weight",
        "datasets[2].repaet: unknown key, did you mean 'repeat'?",
        "2 entries are named 'x'",
        "on_read_error: 'ignore' is none of error, skip",
    ):
        assert words in said
