"""What a run computes: the same with every launcher; and what it says when it cannot."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from projects.common.engine import checkpoints
from projects.common.engine.check import check_config
from projects.common.engine.config import load_config, plain
from projects.common.engine.optim import TrainableGroups
from projects.common.engine.runner import build_model
from projects.common.samplers import Draw, StepBatchSampler
from tests.engine.dummy import DummyDataset, DummyModel, collate
from tests.engine.processes import CONFIG, metrics, run_tool, train

NO_DROPOUT = "model.dropout=0.0"  # dropout differs between ranks, as it should
ACCUMULATE = (NO_DROPOUT, "optim_wrapper.accumulative_counts=2")
TWO = "train_dataloader.batch_size=2"


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    """One process with batches of 4, gradients of two steps accumulated."""
    work_dir = tmp_path_factory.mktemp("single") / "run"
    run = train(work_dir, options=ACCUMULATE)
    assert run.exit_codes == [0], run.output
    return work_dir


def test_one_process_does_the_arithmetic_of_the_config(single):
    """The run again, as a bare torch loop."""
    torch.set_num_threads(1)
    tree = plain(load_config(CONFIG, {"model.dropout": 0.0}))
    model = build_model(tree, seed=3)
    datasets = [DummyDataset(task="sum", length=12), DummyDataset(task="first", length=10)]
    head = [p for name, p in model.named_parameters() if name.startswith("head")]
    groups = [
        {"params": list(model.hidden.parameters()), "lr": 0.02},
        {"params": head, "lr": 0.01},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    sampler = _sampler(max_steps=16)
    for step, (draws, line) in enumerate(zip(sampler, metrics(single), strict=True)):
        rate = _rate(step)
        batch = collate([datasets[draw.dataset][draw] for draw in draws])
        loss = model.loss(batch)["loss_square"]
        assert line["task"] == batch.task
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert line["lr"] == pytest.approx(0.02 * rate, rel=1e-6)
        (loss / 2).backward()
        if step % 2 == 1:
            norm = nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
            assert line["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
            optimizer.param_groups[0]["lr"] = 0.02 * rate
            optimizer.param_groups[1]["lr"] = 0.01 * rate
            optimizer.step()
            optimizer.zero_grad()


def _sampler(max_steps: int) -> StepBatchSampler:
    return StepBatchSampler(
        lengths=[12, 10],
        repeats=[1.0, 1.5],
        tasks=["sum", "first"],
        batch_size=4,
        seed=3,
        max_steps=max_steps,
    )


def _rate(step: int) -> float:
    """Linear warm-up from a tenth over a quarter of 16 steps, then a cosine to a tenth."""
    if step < 4:
        return 0.1 + 0.9 * min(step / 3, 1.0)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 4) / 12)) / 2


@pytest.mark.parametrize(
    "arguments",
    [(), ("--deepspeed", "deepspeed_zero2"), ("--deepspeed", "deepspeed_zero3")],
    ids=["ddp", "zero2", "zero3"],
)
def test_two_processes_are_one(arguments, single, tmp_path):
    work_dir = tmp_path / "run"
    run = train(work_dir, *arguments, processes=2, options=(*ACCUMULATE, TWO))
    assert run.exit_codes == [0, 0], run.output
    ours, theirs = metrics(work_dir), metrics(single)
    assert [line["step"] for line in ours] == list(range(1, 17))
    np.testing.assert_allclose(
        [line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=1e-5
    )
    assert [line["lr"] for line in ours] == [line["lr"] for line in theirs]
    updates = slice(1, None, 2)  # gradients are complete at every second step
    np.testing.assert_allclose(
        [line["grad_norm"] for line in ours[updates]],
        [line["grad_norm"] for line in theirs[updates]],
        rtol=1e-4,
    )
    own, expected = (load_file(d / "model.safetensors") for d in (work_dir, single))
    assert own.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(own[name], expected[name], rtol=1e-4, atol=1e-6)


def test_bf16_means_the_same_with_every_launcher(tmp_path):
    """Activations are rounded; weights, gradients and buffers are not."""
    options = (NO_DROPOUT, TWO, "precision=bf16", "train_cfg.max_steps=8")
    runs = {"ddp": (), "zero2": ("--deepspeed", "deepspeed_zero2")}
    for name, arguments in runs.items():
        run = train(tmp_path / name, *arguments, processes=2, options=options)
        assert run.exit_codes == [0, 0], run.output
    ddp, zero2 = (metrics(tmp_path / name) for name in runs)
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            [line[key] for line in ddp], [line[key] for line in zero2], rtol=1e-5
        )
    initial = build_model(plain(load_config(CONFIG)), seed=3)
    for name in runs:
        weights = load_file(tmp_path / name / "model.safetensors")
        assert torch.equal(weights["scale"], initial.scale)
        for name, value in weights.items():
            assert value.dtype == torch.float32
            assert (value != value.bfloat16().float()).any(), name
    assert _first_loss(initial) != pytest.approx(ddp[0]["loss"], rel=1e-5)  # it is bf16


def test_checkpoints_hold_what_trains_and_buffers(single):
    assert set(load_file(single / "model.safetensors")) == {
        "hidden.weight",
        "hidden.bias",
        "head.weight",
        "head.bias",
        "scale",
    }
    assert sorted(path.name for path in (single / "iter_16.pth").iterdir()) == [
        "model.safetensors",
        "optimizer.pt",
        "state.json",
    ]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    work_dir = tmp_path / "run"
    options = ("train_dataloader.datasets.0.dataset.nan_at=7",)
    run = train(work_dir, options=options)
    assert run.exit_codes == [1]
    sampler = _sampler(max_steps=16)
    step = next(step for step, draws in enumerate(sampler) if (0, 7) in [d[:2] for d in draws])
    assert f"step {step + 1}, rank 0: {{'loss': nan" in run.output
    assert "task sum" in run.output and "'sum/7'" in run.output
    saved = checkpoints.checkpoint_steps(work_dir)
    assert all(saved_step <= step for saved_step in saved)
    assert not (work_dir / "model.safetensors").exists()


def test_load_from_starts_anew_with_the_weights(single, tmp_path):
    work_dir = tmp_path / "run"
    run = train(work_dir, "--load-from", str(single), options=(NO_DROPOUT, "train_cfg.max_steps=4"))
    assert run.exit_codes == [0], run.output
    first = metrics(work_dir)[0]
    assert first["step"] == 1
    # the first step sees the trained weights and the first batch
    model = build_model(plain(load_config(CONFIG, {"model.dropout": 0.0})), seed=3)
    untrained = _first_loss(model)
    checkpoints.load_model(model, single / "iter_16.pth")
    assert first["loss"] == pytest.approx(_first_loss(model), rel=1e-5)
    assert abs(first["loss"] - untrained) > 0.1


def _first_loss(model: DummyModel) -> float:
    datasets = [DummyDataset(task="sum", length=12), DummyDataset(task="first", length=10)]
    draws = _sampler(max_steps=1).batch(0)
    return model.eval().loss(collate([datasets[d.dataset][d] for d in draws]))["loss_square"].item()


def test_mistakes_come_all_at_once_and_nothing_is_written(tmp_path):
    work_dir = tmp_path / "run"
    options = (
        "model.widht=3",
        "train_dataloader.batchsize=4",
        "optim_wrapper.optimizer.learning_rate=1",
        "train_cfg.max_epochs=2",
        "checkpoint.keep_last=2",
        "precission=bf16",
    )
    run = train(work_dir, options=options)
    assert run.exit_codes == [1]
    for words in (
        "the config has 6 mistakes",
        "model.widht: DummyModel has no such key, did you mean 'width'?",
        "train_dataloader.batchsize: unknown key, did you mean 'batch_size'?",
        "optim_wrapper.optimizer.learning_rate: AdamW has no such key",
        "train_cfg: give max_steps or max_epochs, one of them",
        "checkpoint.keep_last: unknown key",
        "precission: unknown key, did you mean 'precision'?",
    ):
        assert words in run.output
    assert not work_dir.exists()


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"encoder.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="0 matched.*1 unexpected"):
        checkpoints.load_model(DummyModel(), path)
    torch.save({name: torch.zeros(7) for name in checkpoints.names_to_save(DummyModel())}, path)
    with pytest.raises(ValueError, match="5 of another shape"):
        checkpoints.load_model(DummyModel(), path)
    with pytest.raises(FileNotFoundError, match="--load-from"):
        checkpoints.read_training_state(tmp_path)


def test_other_frozen_parameters_are_noticed(single, tmp_path):
    """The checkpoint lacks the frozen layer; beside another one its weights mean nothing."""
    tree = plain(load_config(CONFIG))
    right, wrong = build_model(tree, seed=3), build_model(tree, seed=4)
    checkpoints.load_model(right, single)
    before = wrong.head.weight.clone()
    with pytest.raises(ValueError, match="2 of 2 differ .frozen.bias, frozen.weight."):
        checkpoints.load_model(wrong, single)
    assert torch.equal(wrong.head.weight, before)
    run = train(tmp_path / "run", "--resume", str(single / "iter_12.pth"), "--seed", "4")
    assert run.exit_codes == [1] and "2 of 2 differ" in run.output


def test_the_dumped_config_is_the_config(single):
    """What a run writes beside its checkpoints starts the same run again."""
    dumped = load_config(single / "dummy_config.py")
    original = load_config(CONFIG, {"model.dropout": 0.0, "optim_wrapper.accumulative_counts": 2})
    assert dumped.pretty_text == original.pretty_text
    check_config(plain(dumped))
    sample = DummyDataset(task="sum", length=3)[Draw(0, 1, 2)]
    assert build_model(plain(dumped), seed=3).loss(collate([sample]))["loss_square"].item() > 0


def test_evaluation_of_a_checkpoint(single, tmp_path):
    """tools/test.py with two processes gives what the benchmark gives here; scores are merged."""
    work_dir = tmp_path / "scores"
    work_dir.mkdir()
    (work_dir / "scores.json").write_text('{"held_out/error": 9.0, "earlier/score": 0.5}')
    command = [CONFIG, str(single), "--work-dir", str(work_dir), "--benchmarks", "held_out"]
    run = run_tool("tools.test", command, work_dir, processes=2)
    assert run.exit_codes == [0, 0], run.output
    model = build_model(plain(load_config(CONFIG)), seed=3).eval()
    checkpoints.load_model(model, single)
    dataset = DummyDataset(task="sum", length=5)
    errors = [model.loss(collate([dataset[Draw(0, i, 0)]]))["error"].item() for i in range(5)]
    scores = json.loads((work_dir / "scores.json").read_text())
    assert scores == {"held_out/error": pytest.approx(np.mean(errors)), "earlier/score": 0.5}
    records = (work_dir / "predictions" / "held_out.jsonl").read_text().splitlines()
    assert [json.loads(record)["index"] for record in records] == list(range(5))


def test_an_unknown_benchmark_is_named(single, tmp_path):
    command = [CONFIG, str(single), "--work-dir", str(tmp_path / "w"), "--benchmarks", "held_in"]
    run = run_tool("tools.test", command, tmp_path / "w")
    assert run.exit_codes == [1]
    assert "no benchmark held_in: the config has held_out, other" in run.output


def test_optimizer_groups_hold_each_trainable_parameter_once():
    model = DummyModel()
    model.tied = model.head  # met twice when the modules are walked
    custom = {"head": {"lr_mult": 0.5}, "bias": {"decay_mult": 0.0}}
    config = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 0.1, "weight_decay": 1.0},
    }
    wrapper = TrainableGroups(config, {"custom_keys": custom})(model)
    groups = [
        (sorted(p.numel() for p in group["params"]), group["lr"], group["weight_decay"])
        for group in wrapper.optimizer.param_groups
    ]
    # of keys that are equally long the first of the alphabet decides, as in mmengine
    assert sorted(groups) == [([1, 8], 0.1, 0.0), ([8], 0.05, 1.0), ([64], 0.1, 1.0)]


def test_a_rate_for_parameters_that_do_not_exist_is_a_mistake():
    config = {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 0.1}}
    with pytest.raises(ValueError, match="'haed' is in the name of no trainable parameter"):
        TrainableGroups(config, {"custom_keys": {"haed": {"lr_mult": 0.5}}})(DummyModel())
