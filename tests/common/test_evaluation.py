"""Benchmarks on one and several processes, interrupted and continued."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from projects.common.evaluation import model_fingerprint, read_records, run_benchmark


class Squares:
    """Item i has i % 3 records; the summary depends on their order."""

    def __init__(self, items: int = 7, *, label: str = "a", fail_at: int | None = None) -> None:
        self.items = items
        self.label = label
        self.fail_at = fail_at
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.items

    def predict(self, model, index):
        if index == self.fail_at:
            raise ValueError(f"item {index} is broken")
        self.asked.append(index)
        weight = float(model.weight.sum())
        return [{"item": index, "value": weight * index + n} for n in range(index % 3)]

    def summarise(self, records):
        weighed = sum(place * record["value"] for place, record in enumerate(records))
        return {"count": len(records), "weighed": weighed}

    def fingerprint(self) -> str:
        return self.label


class Anonymous(Squares):
    fingerprint = None  # type: ignore[assignment]


def model(value: float = 0.5) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def expected(items: int = 7) -> list[dict]:
    return [
        {"item": index, "value": 0.5 * index + n}
        for index in range(items)
        for n in range(index % 3)
    ]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_one_process(tmp_path):
    scores = run_benchmark("squares", Squares(), model(), tmp_path)
    weighed = sum(place * record["value"] for place, record in enumerate(expected()))
    assert scores == {"squares/count": 6.0, "squares/weighed": weighed}
    assert read_records(tmp_path / "squares.jsonl") == expected()
    assert hidden(tmp_path) == []


def test_modes_are_restored_and_no_gradient_is_kept(tmp_path):
    class Looks(Squares):
        def predict(self, model, index):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            return []

    both = nn.Sequential(model(), model()).train()
    both[1].eval()
    run_benchmark("looks", Looks(), both, tmp_path)
    assert [both.training, both[0].training, both[1].training] == [True, True, False]
    with pytest.raises(ValueError, match="item 2 is broken"):
        run_benchmark("fails", Squares(fail_at=2), both[0], tmp_path)
    assert both[0].training and torch.is_grad_enabled()


def interrupted(folder: Path, benchmark: Squares | None = None) -> None:
    with pytest.raises(ValueError, match="item 4 is broken"):
        run_benchmark("squares", benchmark or Squares(fail_at=4), model(), folder)
    assert not (folder / "squares.jsonl").exists()
    assert hidden(folder) == [".squares.part0.jsonl"]


def test_an_interrupted_run_continues(tmp_path):
    interrupted(tmp_path)
    again = Squares()
    scores = run_benchmark("squares", again, model(), tmp_path)
    assert again.asked == [4, 5, 6]
    assert scores == run_benchmark("squares", Squares(), model(), tmp_path / "undisturbed")
    assert read_records(tmp_path / "squares.jsonl") == expected()
    assert hidden(tmp_path) == []


def test_a_line_cut_by_a_kill_is_done_again(tmp_path):
    interrupted(tmp_path)
    part = tmp_path / ".squares.part0.jsonl"
    part.write_bytes(part.read_bytes()[:-5])
    broken = Squares(fail_at=5)
    with pytest.raises(ValueError, match="item 5"):
        run_benchmark("squares", broken, model(), tmp_path)
    assert broken.asked == [3, 4]
    again = Squares()
    run_benchmark("squares", again, model(), tmp_path)
    assert again.asked == [5, 6]
    assert read_records(tmp_path / "squares.jsonl") == expected()


@pytest.mark.parametrize(
    ("benchmark", "weights"),
    [(Squares(label="b"), 0.5), (Squares(), 0.25), (Squares(items=8), 0.5), (Anonymous(), 0.5)],
)
def test_other_weights_or_questions_start_anew(tmp_path, benchmark, weights):
    interrupted(tmp_path)
    run_benchmark("squares", benchmark, model(weights), tmp_path)
    assert benchmark.asked == list(range(len(benchmark)))


def test_without_a_fingerprint_nothing_is_continued(tmp_path):
    interrupted(tmp_path, Anonymous(fail_at=4))
    again = Anonymous()
    run_benchmark("squares", again, model(), tmp_path)
    assert again.asked == list(range(7))


def test_other_benchmarks_parts_are_left_alone(tmp_path):
    interrupted(tmp_path)
    run_benchmark("squares.part", Squares(), model(), tmp_path)
    assert hidden(tmp_path) == [".squares.part0.jsonl"]


def test_wrong_calls(tmp_path):
    with pytest.raises(ValueError, match="'empty' has no items"):
        run_benchmark("empty", Squares(items=0), model(), tmp_path)
    with pytest.raises(ValueError, match="benchmark name"):
        run_benchmark("../x", Squares(), model(), tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing.jsonl"):
        read_records(tmp_path / "nothing.jsonl")


def test_a_model_is_known_by_its_weights():
    large = nn.Linear(300, 300)
    before = model_fingerprint(large)
    assert before == model_fingerprint(large)
    with torch.no_grad():
        large.weight.add_(1e-3)
    assert model_fingerprint(large) != before
    assert model_fingerprint(model()) != model_fingerprint(nn.Sequential(model()))


def _rank(rank: int, world: int, folder: str, items: int, fail_at: int | None) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE=str(world))
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    benchmark = Squares(items, fail_at=fail_at)
    try:
        answer = run_benchmark("squares", benchmark, model(), f"{folder}/out")
    except (ValueError, RuntimeError) as error:
        answer = f"{type(error).__name__}: {error}"
    result = {"answer": answer, "asked": benchmark.asked}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def on_ranks(folder: Path, world: int, *, items: int = 7, fail_at: int | None = None) -> list[dict]:
    (folder / "store").unlink(missing_ok=True)
    mp.spawn(_rank, (world, str(folder), items, fail_at), nprocs=world)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]


def test_two_processes_agree_with_one_and_one_continues_for_two(tmp_path):
    alone = run_benchmark("squares", Squares(), model(), tmp_path / "alone")
    first, second = on_ranks(tmp_path, 2, fail_at=4)
    assert first["answer"] == "ValueError: item 4 is broken"
    assert second["answer"].startswith("RuntimeError: benchmark 'squares' failed on rank 0")
    assert (first["asked"], second["asked"]) == ([0, 2], [1, 3, 5])
    assert hidden(tmp_path / "out") == [".squares.part0.jsonl", ".squares.part1.jsonl"]
    last = Squares()
    assert run_benchmark("squares", last, model(), tmp_path / "out") == alone
    assert last.asked == [4, 6]
    files = [tmp_path / name / "squares.jsonl" for name in ("alone", "out")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert hidden(tmp_path / "out") == []


def test_more_processes_than_items(tmp_path):
    ranks = on_ranks(tmp_path, 3, items=2)
    alone = run_benchmark("squares", Squares(2), model(), tmp_path / "alone")
    assert [rank["answer"] for rank in ranks] == [alone] * 3
    assert sorted(index for rank in ranks for index in rank["asked"]) == [0, 1]
    assert len(read_records(tmp_path / "out" / "squares.jsonl")) == 1
