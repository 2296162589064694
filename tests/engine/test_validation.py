"""Validation in the loop, the best checkpoint, early stopping, averages: they change no training,
and a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from projects.common.engine import checkpoints
from projects.common.engine.config import load_config, plain
from projects.common.engine.runner import build_model
from projects.common.samplers import Draw
from tests.engine.dummy import DummyDataset, collate
from tests.engine.processes import CONFIG, Kill, run_tool, train

ZERO_2 = ("--deepspeed", "deepspeed_zero2")
VALIDATION = (
    "validation.interval=2",
    "validation.best=held_out/error",
    "validation.higher_is_better=False",
)
AVERAGE = ("ema.decay=0.8", "ema.warmup=5")
TWO = ("train_dataloader.batch_size=2", "model.dropout=0.0")  # of each of two processes
EARLY = (*TWO, *VALIDATION, *AVERAGE, "validation.patience=2")
CHECKPOINTS = "projects.common.engine.checkpoints"


def lines(work_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (work_dir / "metrics.jsonl").read_text().splitlines()]


def losses(work_dir: Path) -> list[tuple]:
    keys = ("step", "task", "lr", "loss", "error", "grad_norm")
    return [tuple(line[key] for key in keys) for line in lines(work_dir) if "loss" in line]


def scores(work_dir: Path) -> dict[int, float]:
    return {
        line["step"]: line["held_out/error"]
        for line in lines(work_dir)
        if "validation_time" in line
    }


def history(work_dir: Path) -> dict:
    return json.loads((work_dir / "training_metrics.json").read_text())


def same_weights(first: Path, second: Path) -> bool:
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp("bare") / "run"
    assert train(work_dir).exit_codes == [0]
    return work_dir


@pytest.fixture(scope="module")
def validated(tmp_path_factory) -> Path:
    """One process, dropout on, 16 steps."""
    work_dir = tmp_path_factory.mktemp("validated") / "run"
    run = train(work_dir, options=(*VALIDATION, *AVERAGE))
    assert run.exit_codes == [0], run.output
    return work_dir


@pytest.fixture(scope="module")
def early(tmp_path_factory) -> dict[str, Path]:
    """Two processes, which stop early, with DDP and with ZeRO-2."""
    found = {}
    for name, arguments in {"ddp": (), "zero2": ZERO_2}.items():
        found[name] = tmp_path_factory.mktemp(name) / "run"
        run = train(found[name], *arguments, processes=2, options=EARLY)
        assert run.exit_codes == [0, 0], run.output
    return found


def test_the_training_does_not_notice_it(bare, validated):
    """The benchmark draws random numbers and puts the model in eval mode."""
    assert losses(validated) == losses(bare)
    assert same_weights(validated / "model.safetensors", bare / "model.safetensors")
    assert list(scores(validated)) == list(range(2, 17, 2))


def test_the_scores_are_those_of_the_averaged_weights(validated):
    """Of the last step, computed here from its checkpoint, and of the plain weights they differ."""
    model = build_model(plain(load_config(CONFIG)), seed=3).eval()
    dataset = DummyDataset(task="sum", length=5)
    errors = {}
    for ema in (True, False):
        checkpoints.load_model(model, validated / "iter_16.pth", ema=ema)
        items = [collate([dataset[Draw(0, i, 0)]]) for i in range(5)]
        errors[ema] = sum(model.loss(item)["error"].item() for item in items) / 5
    assert scores(validated)[16] == pytest.approx(errors[True], abs=1e-7)
    assert abs(errors[True] - errors[False]) > 1e-3


def test_the_best_checkpoint_scores_the_same_in_the_final_evaluation(validated, tmp_path):
    own = scores(validated)
    step = min(own, key=own.get)
    assert history(validated)["best"] == {
        "metric": "held_out/error",
        "value": own[step],
        "step": step,
    }
    best = validated / (validated / "best_checkpoint").read_text()
    assert checkpoints.read_training_state(best)["step"] == step < 16
    command = [CONFIG, str(best), "--ema", "--work-dir", str(tmp_path / "w")]
    run = run_tool("tools.test", command, tmp_path / "w")
    assert run.exit_codes == [0], run.output
    final = json.loads((tmp_path / "w" / "scores.json").read_text())
    assert final["held_out/error"] == own[step]


def test_a_work_dir_holds_the_newest_and_the_best(validated):
    assert sorted(path.name for path in validated.glob("*.pth")) == [
        "best.pth",
        "iter_12.pth",
        "iter_16.pth",
    ]
    for name in ("model.safetensors", "model_ema.safetensors"):
        assert same_weights(validated / name, validated / "iter_16.pth" / name)


def test_the_history_is_whole(validated):
    found = history(validated)
    assert found["steps"] == [line for line in lines(validated) if "loss" in line]
    assert {row["step"]: row["held_out/error"] for row in found["validations"]} == scores(validated)
    assert found["stopped"] is None and found["failed_validations"] == 0
    # 27 draws in batches of 4: steps 1 to 6 are of the first epoch, 7 to 13 of the second
    assert [row["logged_steps"] for row in found["epochs"]] == [6, 7, 3]
    second = [line["loss"] for line in found["steps"][6:13]]
    assert found["epochs"][1]["loss"] == pytest.approx(sum(second) / 7)
    assert found["steps"][-1]["epoch"] == pytest.approx(16 / 6.75, abs=1e-4)
    assert found["steps"][0]["lrs"]["head"] == pytest.approx(found["steps"][0]["lr"] / 2)


def test_patience_ends_the_run_on_all_ranks_with_any_launcher(early):
    for work_dir in early.values():
        own = scores(work_dir)
        best = min(own, key=own.get)
        assert max(own) == best + 4 < 16  # two validations later
        assert losses(work_dir)[-1][0] == max(own)
        assert "has not improved by more than 0 in 2 validations" in history(work_dir)["stopped"]
        assert checkpoints.find_latest(work_dir).name == f"iter_{max(own)}.pth"
        assert (work_dir / "model.safetensors").is_file()
    ddp, zero2 = early["ddp"], early["zero2"]
    assert scores(ddp) == pytest.approx(scores(zero2), rel=1e-4)
    averages = [load_file(d / "model_ema.safetensors") for d in (ddp, zero2)]
    for name, value in averages[0].items():
        torch.testing.assert_close(value, averages[1][name], rtol=1e-4, atol=1e-6)


MOMENTS = {
    "ddp, in a validation": (
        (),
        Kill("tests.engine.dummy_benchmark:DummyBenchmark.predict", call=8, rank=1),
    ),
    "ddp, when all is trained": ((), Kill(f"{CHECKPOINTS}:copy_file", call=2)),
    "zero2, between the best and its twin": (ZERO_2, Kill(f"{CHECKPOINTS}:link_folder")),
    "zero2, after the first step of patience": (
        ZERO_2,
        Kill("tests.engine.dummy:DummyModel.loss", call=14),
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed(moment, early, tmp_path):
    launcher, kill = MOMENTS[moment]
    reference, work_dir = early["zero2" if launcher else "ddp"], tmp_path / "run"
    killed = train(work_dir, *launcher, processes=2, options=EARLY, kill=kill)
    assert killed.exit_codes == [-9, -9], killed.output
    for _ in range(2 if moment.startswith("ddp, when") else 1):  # a second time nothing is left
        resumed = train(work_dir, *launcher, "--resume", processes=2, options=EARLY)
        assert resumed.exit_codes == [0, 0], resumed.output
    assert losses(work_dir) == losses(reference)
    assert scores(work_dir) == scores(reference)
    own, expected = history(work_dir), history(reference)
    assert own["best"] == expected["best"] and own["stopped"] == expected["stopped"]
    for name in ("model.safetensors", "model_ema.safetensors", "best.pth/model_ema.safetensors"):
        assert same_weights(work_dir / name, reference / name)
    assert sorted(p.name for p in work_dir.glob("*.pth")) == sorted(
        p.name for p in reference.glob("*.pth")
    )
    assert not list(work_dir.glob(".*"))


def test_a_validation_that_raises_does_not_end_the_training(early, tmp_path):
    """One of two ranks cannot read an item; both count it and go on."""
    work_dir = tmp_path / "run"
    options = (
        *TWO,
        "validation.interval=8",
        "validation.best=held_out/error",
        "validation.patience=1",
        "benchmarks.held_out.fail_at=3",
    )
    run = train(work_dir, processes=2, options=options)
    assert run.exit_codes == [0, 0], run.output
    assert "validation at step 8 failed (1 so far)" in run.output
    assert "item 3 cannot be read" in run.output
    assert scores(work_dir) == {} and history(work_dir)["failed_validations"] == 2
    assert losses(work_dir)[: len(losses(early["ddp"]))] == losses(early["ddp"])
    assert len(losses(work_dir)) == 16


def test_phases_cut_an_epoch(tmp_path):
    """27 draws, 4 a step: thirds of an epoch end with steps 3, 5 and 7."""
    work_dir = tmp_path / "run"
    options = (
        "train_cfg.max_steps=7",
        "train_cfg.phases_per_epoch=3",
        "checkpoint.interval=phase",
        "checkpoint.keep=9",
        "log.interval=5",
        "validation.interval=epoch",
        "validation.max_items=2",
    )
    run = train(work_dir, options=options)
    assert run.exit_codes == [0], run.output
    assert list(checkpoints.checkpoint_steps(work_dir)) == [3, 5, 7]
    assert list(scores(work_dir)) == [7]
    assert [line["step"] for line in lines(work_dir)] == [5, 7, 7]
    records = (work_dir / "validation" / "held_out.jsonl").read_text().splitlines()
    assert [json.loads(record)["index"] for record in records] == [0, 4]  # spread over 5 items
    assert not (work_dir / "best_checkpoint").exists()
