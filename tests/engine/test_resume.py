"""kill -9 at any moment, then --resume, is as if nothing had happened: to the last digit."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from projects.common.engine import checkpoints
from projects.common.engine.hooks.checkpoint import _warn_if_full
from tests.engine.processes import Kill, train

CHECKPOINTS = "projects.common.engine.checkpoints"
ZERO_2 = ("--deepspeed", "deepspeed_zero2")
TWO = ("train_dataloader.batch_size=2",)  # of each of two processes


def losses(work_dir: Path) -> list[tuple]:
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    keys = ("step", "task", "lr", "loss", "error", "grad_norm")
    return [tuple(json.loads(line)[key] for key in keys) for line in lines]


def assert_same_run(work_dir: Path, reference: Path) -> None:
    assert losses(work_dir) == losses(reference)
    own, expected = (load_file(d / "model.safetensors") for d in (work_dir, reference))
    assert own.keys() == expected.keys()
    assert all((own[name] == expected[name]).all() for name in expected)
    assert sorted(path.name for path in work_dir.glob("iter_*")) == ["iter_12.pth", "iter_16.pth"]
    assert not list(work_dir.glob(".*"))  # nothing unfinished is left


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp("plain") / "run"
    assert train(work_dir).exit_codes == [0]
    assert len(losses(work_dir)) == 16
    return work_dir


@pytest.fixture(scope="module")
def zero2(tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp("zero2") / "run"
    run = train(work_dir, *ZERO_2, processes=2, options=TWO)
    assert run.exit_codes == [0, 0], run.output
    assert len(losses(work_dir)) == 16
    return work_dir


MOMENTS = {  # a checkpoint is saved at steps 4, 8, 12 and 16
    "before the first checkpoint": Kill("tests.engine.dummy:DummyModel.loss", call=3),
    "in the middle of a step": Kill("tests.engine.dummy:DummyModel.loss", call=11, moment="after"),
    "in a loss line": Kill("projects.common.engine.hooks.metrics:MetricsHook._write", call=10),
    "while weights are written": Kill(
        "projects.common.engine.checkpoints:save_file", call=2, moment="torn"
    ),
    "before the folder is renamed": Kill(f"{CHECKPOINTS}:_sync", call=11),
    "between the folder and its pointer": Kill(f"{CHECKPOINTS}:write_text", call=7),
    "after the pointer, before the oldest goes": Kill(f"{CHECKPOINTS}:_discard"),
    "while the oldest is deleted": Kill(f"{CHECKPOINTS}:shutil.rmtree"),
    "when all is trained": Kill(f"{CHECKPOINTS}:copy_file"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_process(moment, plain, tmp_path):
    work_dir = tmp_path / "run"
    killed = train(work_dir, kill=MOMENTS[moment])
    assert killed.exit_codes == [-9], killed.output
    assert not (work_dir / "model.safetensors").exists()
    resumed = train(work_dir, "--resume")
    assert resumed.exit_codes == [0], resumed.output
    assert_same_run(work_dir, plain)


ZERO_MOMENTS = {
    "one shard is missing": Kill(
        "projects.common.engine.zero:_SafeShards.save", call=2, rank=1, moment="before"
    ),
    "between the folder and its pointer": Kill(f"{CHECKPOINTS}:write_text", call=7),
}


@pytest.mark.parametrize("moment", ZERO_MOMENTS)
def test_two_processes_with_zero_2(moment, zero2, tmp_path):
    work_dir = tmp_path / "run"
    killed = train(work_dir, *ZERO_2, processes=2, options=TWO, kill=ZERO_MOMENTS[moment])
    assert killed.exit_codes == [-9, -9], killed.output
    resumed = train(work_dir, *ZERO_2, "--resume", processes=2, options=TWO)
    assert resumed.exit_codes == [0, 0], resumed.output
    assert_same_run(work_dir, zero2)


def test_zero_3_resumes_exactly_from_a_given_folder(tmp_path):
    zero_3 = ("--deepspeed", "deepspeed_zero3")
    reference, work_dir = tmp_path / "reference", tmp_path / "run"
    assert train(reference, *zero_3, processes=2, options=TWO).exit_codes == [0, 0]
    folder = str(reference / "iter_12.pth")
    resumed = train(work_dir, *zero_3, "--resume", folder, processes=2, options=TWO)
    assert resumed.exit_codes == [0, 0], resumed.output
    assert losses(work_dir) == losses(reference)[12:]
    own, expected = (load_file(d / "model.safetensors") for d in (work_dir, reference))
    assert all((own[name] == expected[name]).all() for name in expected)


FULL = {
    "optimizer": ("projects.common.engine.strategy:PlainState.save_optimizer", 1, ()),
    "weights": ("projects.common.engine.checkpoints:save_file", 1, ()),
    "shards": ("projects.common.engine.zero:ZeroStrategy.save_optimizer", 2, ZERO_2),
}


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_costs_no_more_than_one_interval(what, tmp_path):
    target, processes, launcher = FULL[what]
    work_dir, wide = tmp_path / "run", "model.width=256"  # whose files are larger than 128 KiB
    options = (*(TWO if processes > 1 else ()), wide)
    full = Kill(target, call=2, moment="full")
    failed = train(work_dir, *launcher, processes=processes, options=options, kill=full)
    assert failed.exit_codes[0] == 1
    assert "iter_8.pth could not be saved" in failed.output
    assert "iter_4.pth is whole: make room and --resume" in failed.output
    assert [path.name for path in work_dir.glob("*.pth")] == ["iter_4.pth"]
    assert not list(work_dir.glob(".tmp_*"))  # nor does what is half-written fill it further
    resumed = train(work_dir, *launcher, "--resume", processes=processes, options=options)
    assert resumed.exit_codes == [0] * processes, resumed.output
    whole = tmp_path / "whole"
    train(whole, *launcher, processes=processes, options=options)
    assert_same_run(work_dir, whole)


def test_that_the_next_checkpoint_will_not_fit_is_told_before(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "iter_4.pth"
    (folder / "zero").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"0" * 2**20)
    (folder / "zero" / "shard.pt").write_bytes(b"0" * 2**20)
    for free, told in ((2 * 2**20, 0), (2 * 2**20 - 1, 1)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda _, usage=usage: usage)
        _warn_if_full(logging.getLogger("full"), folder)
        assert caplog.text.count("iter_4.pth takes 2 MiB") == told


def test_another_launcher_is_refused(zero2, plain):
    run = train(zero2, "--resume", str(zero2 / "iter_16.pth"))
    assert run.exit_codes == [1]
    assert "saved by DeepSpeed ZeRO-2 in 2 processes and this run is a run without" in run.output
    run = train(plain, "--resume", str(plain / "iter_16.pth"), *ZERO_2)
    assert "this run is DeepSpeed ZeRO-2 in 1 processes" in run.output


def test_a_new_run_in_an_old_folder_does_not_continue_the_old_one(plain, tmp_path):
    work_dir = tmp_path / "run"
    assert train(work_dir, "--seed", "5").exit_codes == [0]
    kill = Kill("tests.engine.dummy:DummyModel.loss", call=3)
    train(work_dir, kill=kill)  # anew with the config's seed, killed before its first checkpoint
    assert checkpoints.find_latest(work_dir) is None
    assert train(work_dir, "--resume").exit_codes == [0]
    assert_same_run(work_dir, plain)


def test_a_finished_run_can_be_made_longer(plain, tmp_path):
    work_dir = tmp_path / "run"
    constant = ("param_scheduler=[]",)
    train(work_dir, options=(*constant, "train_cfg.max_steps=8"))
    longer = train(work_dir, "--resume", options=(*constant, "train_cfg.max_steps=16"))
    assert longer.exit_codes == [0], longer.output
    reference = tmp_path / "reference"
    train(reference, options=constant)
    assert losses(work_dir) == losses(reference)
