"""Datasets are inspected before a run."""

from __future__ import annotations

import pytest

from projects.common.inspection import RecordReport, inspect_dataset, spread


class Numbers:
    """Record 3 has a problem, record 5 cannot be read, record 7 is a mistake of ours."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def inspect(self, index):
        if index == 5:
            raise FileNotFoundError("five.json does not exist")
        if index == 7:
            raise KeyError("seven")
        problems = ["three.json, record 2: broken"] if index == 3 else []
        return RecordReport(counts={"videos": 1, "frames": index}, problems=problems)


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_are_added_and_problems_kept(workers):
    seen = []
    report = inspect_dataset(
        "numbers", Numbers(7), workers=workers, on_record=lambda r: seen.append(r.records)
    )
    assert seen == list(range(1, 8))
    assert report.counts == {"videos": 6, "frames": 0 + 1 + 2 + 3 + 4 + 6, "unreadable": 1}
    assert report.bad_records == 2 and not report.clean
    assert report.problems == ["three.json, record 2: broken", "five.json does not exist"]


def test_a_mistake_of_ours_is_raised():
    with pytest.raises(KeyError):
        inspect_dataset("numbers", Numbers(8))


def test_only_the_first_problems_are_kept():
    class Bad(Numbers):
        def inspect(self, index):
            return RecordReport(problems=[f"{index}a", f"{index}b"])

    report = inspect_dataset("bad", Bad(20))
    assert report.bad_records == 20 and len(report.problems) == 10
    assert report.problems[:3] == ["0a", "0b", "1a"]


def test_a_limit_is_spread_over_the_dataset():
    assert (
        spread(10, 3) == [0, 3, 6] and spread(3, 10) == [0, 1, 2] and spread(4, None) == [*range(4)]
    )
    report = inspect_dataset("numbers", Numbers(100), limit=4)
    assert report.records == 4 and report.counts["frames"] == 0 + 25 + 50 + 75
