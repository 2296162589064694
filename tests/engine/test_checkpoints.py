"""Which folders count as checkpoints, and which go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from projects.common.engine import checkpoints
from projects.common.engine.hooks.metrics import truncate_metrics
from projects.common.engine.loader import build_train_loader
from tests.engine.dummy import DummyBatch, DummyDataset, DummyModel, collate


def make(folder: Path, name: str, *, whole: bool = True) -> Path:
    path = folder / name
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    if whole:
        (path / "state.json").write_text("{}")
    return path


def test_unfinished_folders_never_count(tmp_path):
    make(tmp_path, "iter_4.pth")
    make(tmp_path, ".tmp_iter_8.pth")
    make(tmp_path, ".old_iter_12.pth")
    make(tmp_path, "iter_16.pth", whole=False)
    make(tmp_path, "iter_20.pth.bak")
    assert checkpoints.find_latest(tmp_path) == tmp_path / "iter_4.pth"
    checkpoints.remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "iter_16.pth",
        "iter_20.pth.bak",
        "iter_4.pth",
    ]


def test_the_pointer_is_believed_and_a_wrong_one_is_named(tmp_path):
    make(tmp_path, "iter_4.pth")
    make(tmp_path, "iter_10.pth")
    assert checkpoints.find_latest(tmp_path) == tmp_path / "iter_10.pth"  # by number, not by name
    checkpoints.write_text(tmp_path / "last_checkpoint", "iter_4.pth\n")
    assert checkpoints.find_latest(tmp_path) == tmp_path / "iter_4.pth"
    checkpoints.write_text(tmp_path / "last_checkpoint", "iter_7.pth")
    with pytest.raises(FileNotFoundError, match="names iter_7.pth.*not there or not whole"):
        checkpoints.find_latest(tmp_path)


def test_publishing_replaces_and_keeps_the_newest_of_this_run(tmp_path):
    for name in ("iter_4.pth", "iter_8.pth", "iter_12.pth", "iter_99.pth"):
        make(tmp_path, name)
    fresh = make(tmp_path, ".tmp_iter_12.pth")
    (fresh / "model.safetensors").write_bytes(b"new weights")
    checkpoints.publish(tmp_path / "iter_12.pth")
    checkpoints.drop_oldest(tmp_path / "iter_12.pth", keep=2)
    # 99 is of an earlier run that went further; it is not this run's to delete
    assert list(checkpoints.checkpoint_steps(tmp_path)) == [8, 12, 99]
    assert (tmp_path / "iter_12.pth" / "model.safetensors").read_bytes() == b"new weights"
    assert checkpoints.find_latest(tmp_path) == tmp_path / "iter_12.pth"
    assert not list(tmp_path.glob(".*"))


def test_weights_are_found_from_work_dir_folder_or_file(tmp_path):
    folder = make(tmp_path, "iter_4.pth")
    weights = folder / "model.safetensors"
    assert {checkpoints.weights_file(p) for p in (tmp_path, folder, weights)} == {weights}
    (tmp_path / "model.safetensors").write_bytes(b"final")
    assert checkpoints.weights_file(tmp_path) == tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        checkpoints.weights_file(tmp_path / "nowhere")


def test_metrics_after_the_checkpoint_are_dropped_with_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 10}) + "\n" for step in range(1, 6)]
    path.write_text("".join(lines) + '{"step": 6, "lo')
    truncate_metrics(path, 4)
    assert path.read_text() == "".join(lines[:4])
    path.write_text("".join(lines[:2]) + '{"step": 3, "lo')
    truncate_metrics(path, 4)
    assert path.read_text() == "".join(lines[:2])


def test_epochs_become_steps_that_fit_the_accumulation():
    def steps(**changes) -> int:
        settings = dict(
            datasets=[
                dict(dataset=dict(type=DummyDataset, task="sum", length=12)),
                dict(dataset=dict(type=DummyDataset, task="first", length=10), repeat=1.5),
            ],
            batch_size=2,
            collate="tests.engine.dummy.collate",
            max_steps=None,
            max_epochs=1,
            seed=0,
            rank=1,
            world_size=2,
        )
        return len(build_train_loader(**{**settings, **changes}))

    assert steps() == 7  # 12 + 15 samples, 4 at a time: 6.75 steps an epoch
    assert steps(multiple_of=4) == 8
    assert steps(max_epochs=4) == 27  # nothing is rounded up before the end
    assert steps(max_epochs=0.1) == 1
    assert steps(max_steps=5, max_epochs=None) == 5


def test_bf16_computes_in_bfloat16_and_keeps_its_weights():
    model = DummyModel()
    batch = collate([("sum", "sum/0", torch.ones(6).numpy(), 1.0)])
    seen = []
    model.hidden.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    exact = model(batch)["loss_square"]
    model.precision = "bf16"
    rounded = model(batch)["loss_square"]
    assert seen == [torch.float32, torch.bfloat16]
    assert model.hidden.weight.dtype == torch.float32
    assert 0 < abs(exact.item() - rounded.item()) < 0.1 * exact.item() + 0.02


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({"error": torch.ones(())}, "'error'"),
        ({"loss_a": torch.ones(()), "loss": torch.ones(())}, "'loss'"),
        ({"loss_a": torch.ones(()), "mask_loss": torch.ones(())}, "'mask_loss'"),
    ],
)
def test_losses_that_would_count_twice_or_not_at_all_are_refused(losses, words):
    with pytest.raises(ValueError, match=words):
        DummyModel().parse_losses(losses)


def test_the_loss_is_the_sum_of_its_parts():
    parts = {"loss_a": torch.tensor(2.0), "loss_b": torch.tensor(0.5), "error": torch.tensor(9.0)}
    total, logged = DummyModel().parse_losses(parts)
    assert total.item() == 2.5
    assert {key: value.item() for key, value in logged.items()} == {
        "loss": 2.5,
        "loss_a": 2.0,
        "loss_b": 0.5,
        "error": 9.0,
    }


def test_forward_only_trains():
    batch = DummyBatch("sum", [], torch.zeros(1, 6), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="no mode 'predict'"):
        DummyModel()(batch, mode="predict")
