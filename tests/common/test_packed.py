"""A packed list gives back what it was made of, and its readers write nothing."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from projects.common.packed import Packed, packed

COUNT = 50_000


@dataclass(frozen=True)
class Item:
    name: str
    path: Path
    numbers: tuple[Any, ...]


def items(count: int) -> list[Item]:
    return [made(number) for number in range(count)]


def made(number: int) -> Item:
    return Item(f"{number}", Path("a") / f"{number}.jpg", tuple(range(number % 7)))


def test_it_reads_like_the_list() -> None:
    given = items(11)
    found = Packed(given)
    assert len(found) == 11 and list(found) == given and found == given and found != given[1:]
    assert found[-1] == given[-1] and found[3:9:2] == given[3:9:2]
    assert found[2] is not found[2], "it is made anew"
    assert given[4] in found and found.index(given[4]) == 4
    for index in (11, -12):
        with pytest.raises(IndexError, match=f"item {index} of 11"):
            found[index]
    assert list(Packed([])) == [] and len(Packed(iter(given))) == 11


def test_a_packed_list_is_shared_and_travels() -> None:
    found = packed(items(5))
    assert packed(found) is found, "what is packed is not packed twice"
    again = pickle.loads(pickle.dumps(found))
    again.append(items(6)[-1])
    assert again == items(6) and found == items(5)


def written(rows: Any, results: Any) -> None:
    """Bytes of its own that a forked process has more after it has read every row."""
    gc.freeze()
    before = _dirty()
    total = sum(len(row.numbers) for row in rows)
    results.put((total, _dirty() - before))


def _dirty() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="needs Linux")
def test_a_forked_reader_copies_next_to_nothing() -> None:
    copied = read_in_a_fork(Packed(made(number) for number in range(COUNT)))
    kept = read_in_a_fork(items(COUNT))
    assert kept > 8 << 20, "or this test shows nothing"
    assert copied < kept / 4


def read_in_a_fork(rows: Any) -> int:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=written, args=(rows, results))
    process.start()
    total, copied = results.get(timeout=60)
    process.join()
    assert total == sum(number % 7 for number in range(COUNT))
    return copied
