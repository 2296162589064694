"""Steps whose loss is not finite, when the run is to go on: left out by all ranks, and kept."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from projects.common.engine.bad_loss import dump_batch
from projects.common.engine.check import check_config
from projects.common.engine.config import load_config, plain
from projects.common.engine.hooks.finite import IN_A_ROW
from projects.common.engine.model import build_model
from projects.common.samplers import StepBatchSampler
from tests.engine.dummy import DummyDataset, collate
from tests.engine.processes import CONFIG, metrics, train

NO_DROPOUT = "model.dropout=0.0"  # dropout differs between ranks, as it should
SKIP = "on_bad_loss=skip"
TWO = "train_dataloader.batch_size=2"
KINDS = ("sum", "first")
BAD = "train_dataloader.datasets.0.dataset.nan_at=7"
LAUNCHERS = {
    "plain": ((), 1),
    "ddp": ((), 2),
    "zero2": (("--deepspeed", "deepspeed_zero2"), 2),
    "zero3": (("--deepspeed", "deepspeed_zero3"), 2),
}


def samples(rank: int = 0, ranks: int = 1) -> StepBatchSampler:
    return StepBatchSampler(
        lengths=[12, 10],
        repeats=[1.0, 1.5],
        tasks=["sum", "first"],
        batch_size=4 // ranks,
        seed=3,
        max_steps=16,
        rank=rank,
        world_size=ranks,
    )


def bad_steps(rank: int = 0, ranks: int = 1) -> list[int]:
    steps = enumerate(samples(rank, ranks), start=1)
    return [step for step, draws in steps if any(draw[:2] == (0, 7) for draw in draws)]


def by_hand(lines: list[dict]) -> dict[str, Tensor]:
    """The weights of a bare loop over the good steps, at the rates that the run noted."""
    torch.set_num_threads(1)
    model = build_model(plain(load_config(CONFIG, {"model.dropout": 0.0})), seed=3)
    datasets = [DummyDataset(task="sum", length=12), DummyDataset(task="first", length=10)]
    parts = [list(model.hidden.parameters()), list(model.head.parameters())]
    optimizer = torch.optim.AdamW([{"params": part} for part in parts], weight_decay=0.1)
    for step, (draws, line) in enumerate(zip(samples(), lines, strict=True), start=1):
        if step in bad_steps():
            continue
        for group, share in zip(optimizer.param_groups, (1.0, 0.5), strict=True):
            group["lr"] = line["lr"] * share
        optimizer.zero_grad()
        model.loss(collate([datasets[d.dataset][d] for d in draws]))["loss_square"].backward()
        torch.nn.utils.clip_grad_norm_([p for part in parts for p in part], 1.0)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_bad_step_is_left_out_by_all_ranks(launcher, tmp_path):
    arguments, ranks = LAUNCHERS[launcher]
    work_dir = tmp_path / "run"
    options = (NO_DROPOUT, SKIP, BAD, f"train_dataloader.batch_size={4 // ranks}")
    run = train(work_dir, *arguments, processes=ranks, options=options)
    assert run.exit_codes == [0] * ranks, run.output
    lines = metrics(work_dir)
    assert bad_steps() and [line["step"] for line in lines] == list(range(1, 17))
    assert [line["step"] for line in lines if line["loss"] is None] == bad_steps()
    got, expected = load_file(work_dir / "model.safetensors"), by_hand(lines)
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
    dumped = {path.name for path in (work_dir / "bad_batches").iterdir()}
    assert dumped == {
        f"step_{step}_rank_{rank}.pt" for rank in range(ranks) for step in bad_steps(rank, ranks)
    }
    rank = next(rank for rank in range(ranks) if bad_steps(rank, ranks))
    step = bad_steps(rank, ranks)[0]
    assert f"step {step}, rank {rank}: " in run.output and "'sum/7'" in run.output
    batch = torch.load(work_dir / "bad_batches" / f"step_{step}_rank_{rank}.pt", weights_only=True)
    assert batch["task"] == "sum" and batch["inputs"].shape == (4 // ranks, 6)
    row = batch["names"].index("sum/7")
    assert batch["targets"].isnan().nonzero()[:, 0].tolist() == [row]


@pytest.mark.parametrize("launcher", ["zero2", "zero3"])
def test_a_bad_step_stops_all_ranks(launcher, tmp_path):
    arguments, ranks = LAUNCHERS[launcher]
    work_dir = tmp_path / "run"
    run = train(work_dir, *arguments, processes=ranks, options=(NO_DROPOUT, BAD, TWO))
    assert 0 not in run.exit_codes, run.output
    (rank,) = [rank for rank in range(ranks) if bad_steps()[0] in bad_steps(rank, ranks)]
    step = bad_steps()[0]
    assert f"step {step}, rank {rank}: " in run.output and "'sum/7'" in run.output
    dumped = [path.name for path in (work_dir / "bad_batches").iterdir()]
    assert dumped == [f"step_{step}_rank_{rank}.pt"]
    assert [line["step"] for line in metrics(work_dir)] == list(range(1, step))
    assert not (work_dir / "model.safetensors").exists()


def test_a_step_that_takes_too_long_is_named_by_all_ranks(tmp_path):
    """One rank stalls, the other waits for it: the message of the first shows where it stands."""
    arguments, ranks = LAUNCHERS["zero3"]
    step = bad_steps()[0]
    stall = ("model.stall=('sum/7', 4.0)", "watchdog.minutes=0.01", f"train_cfg.max_steps={step}")
    options = (NO_DROPOUT, TWO, *stall)
    run = train(tmp_path / "run", *arguments, processes=ranks, options=options)
    assert run.exit_codes == [0, 0], run.output
    (stalled,) = [rank for rank in range(ranks) if step in bad_steps(rank, ranks)]
    reports = {}
    for rank in range(ranks):
        start = run.output.index(f"rank {rank} has been computing step {step} for")
        reports[rank] = run.output[start : start + 3000]
        names = [f"{KINDS[d.dataset]}/{d.index}" for d in samples(rank, ranks).batch(step - 1)]
        assert f"task sum, samples {names}" in reports[rank]
    assert "time.sleep(self.stall[1])" in reports[stalled]


def test_weights_that_are_lost_stop_a_run_that_skips(tmp_path):
    """All steps are bad: nothing is to be gained from reading the data to its end."""
    options = (SKIP, "optim_wrapper.optimizer.lr=1e38", "optim_wrapper.clip_grad=None")
    run = train(tmp_path / "run", options=options)
    assert run.exit_codes == [1] and "FloatingPointError" in run.output
    assert run.output.count("the step is left out") == IN_A_ROW - 1


@dataclass
class _Clip:
    frames: Tensor
    boxes: list
    more: dict
    tokenizer: object


def test_a_dump_holds_tensors_and_nothing_to_execute(tmp_path):
    whole = torch.arange(3000.0).view(1000, 3)
    clip = _Clip(whole[5:6], [torch.ones(2), None], {"names": ("a", "b"), 3: 0.5}, object())
    path = tmp_path / "bad" / "step_1_rank_0.pt"
    dump_batch(clip, path)
    back = torch.load(path, weights_only=True)
    assert torch.equal(back["frames"], whole[5:6]) and path.stat().st_size < 4000
    assert torch.equal(back["boxes"][0], torch.ones(2)) and back["boxes"][1] is None
    assert back["more"] == {"names": ["a", "b"], "3": 0.5} and back["tokenizer"] is None
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_skipping_with_accumulation_is_a_mistake_of_the_config():
    accumulates = {"on_bad_loss": "skip", "optim_wrapper.accumulative_counts": 2}
    with pytest.raises(ValueError, match="1 mistake(.|\n)*'skip' would leave half of an update"):
        check_config(plain(load_config(CONFIG, accumulates)))
    with pytest.raises(ValueError, match="goes with OptimWrapper, not with 'AmpOptimWrapper'"):
        amp = {"on_bad_loss": "skip", "optim_wrapper.type": "AmpOptimWrapper"}
        check_config(plain(load_config(CONFIG, amp)))
