"""``tools/finetune_sam2.py`` from a page to a model that tracks."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.common.engine.config import load_config, plain
from projects.sam2_video.finetune.loading import finetuned_sam2
from projects.sam2_video.finetune.yaml_page import read_page
from projects.sam2_video.predictor import ObjectPrompt, VideoPredictor
from projects.sam2_video.pretrained import read_sam2_state
from projects.sam2_video.toy import toy_sam2
from tests.engine.processes import Kill, run_tool
from tests.sam2_video.finetune.conftest import FRAMES, scene
from tools import convert_sam2
from tools.finetune_sam2 import main

ROOT = Path(__file__).parents[3]
TOOL = "tools.finetune_sam2"


def train(page: Path, *arguments: str) -> str:
    run = run_tool(TOOL, ["--config", str(page), *arguments], page.with_name("run"))
    assert run.exit_codes == [0], run.output
    return run.output


def lines(output: Path) -> list[dict]:
    """What training logged, without what depends on the machine."""
    kept = []
    for line in (output / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "loss" in record:
            kept.append({k: v for k, v in record.items() if "loss" in k or k in ("step", "lr")})
    return kept


def track(sam2) -> np.ndarray:
    frames = np.stack([scene(9, t)[0] for t in range(FRAMES)])
    mask = scene(9, 0)[1] == 1
    found = VideoPredictor(sam2).propagate(frames, [ObjectPrompt(1, 0, mask=mask)])
    return np.stack([masks[0] for _, masks in found])


def test_a_run_writes_resumes_and_tracks(tiny_page, tmp_path):
    """A run that was killed and resumed is whole; its best checkpoint is what tracks."""
    page, output = tiny_page(), tmp_path / "out"
    command = ["--config", str(page), "--max-steps", "4"]
    run_tool(TOOL, command, tmp_path / "killed", kill=_at_step(3))
    assert (output / "iter_2.pth").is_dir() and not (output / "iter_4.pth").exists()
    held_out = (output / "splits" / "val.txt").read_text()
    assert "resumed" in train(page, "--max-steps", "4", "--resume")
    assert {path.name for path in output.iterdir()} >= {
        "best.pth", "iter_4.pth", "config.py", "finetune.yaml", "training_metrics.json", "splits",
    }  # fmt: skip
    assert [line["step"] for line in lines(output)] == [1, 2, 3, 4]
    assert (output / "splits" / "val.txt").read_text() == held_out
    assert list(output.rglob("events.out.tfevents*"))
    as_run = read_page(output / "finetune.yaml").data
    assert as_run["trainer"]["max_steps"] == 4 and as_run["trainer"]["max_epochs"] is None

    history = json.loads((output / "training_metrics.json").read_text())
    assert [entry["step"] for entry in history["validations"]] == [2, 4]
    best = max(history["validations"], key=lambda entry: entry["val/J&F"])
    assert history["best"] == {
        "metric": "val/J&F", "value": best["val/J&F"], "step": best["step"],
    }  # fmt: skip
    last = finetuned_sam2(output, which="last")
    assert track(last).shape == (FRAMES, 48, 48)
    start = toy_sam2(image_size=32).state_dict()
    changed = [k for k, v in last.state_dict().items() if not torch.equal(v, start[k])]
    assert any("vision_encoder" in k for k in changed) and any("mask_decoder" in k for k in changed)
    # the config stands on its own
    tree = plain(load_config(output / "config.py"))
    assert tree["model"]["sam2"]["trainable"] == ["all"]


def _at_step(number: int) -> Kill:
    return Kill("projects.common.engine.loop:StepLoop._run_step", call=number)


def test_patience_ends_a_run_and_parts_stay_frozen(tiny_page, tmp_path):
    """With a rate that changes nothing, no score improves."""
    page = tiny_page(
        model={
            "trainable": ["mask_decoder"],
            "lora": {"rank": 2, "modules": ["image_encoder", "memory_attention"]},
        },
        loss={"type": "simple"},
        trainer={"lr": 1e-12, "vision_lr": 1e-12, "max_steps": 20, "patience": 1, "ema": 0.9},
        memory={
            "checkpointing": ["encoder", "memory", "decoder", "clicks"],
            "object_chunk": 1,
            "encode_split": 1,
            "loss_resolution": "logits",
        },
    )
    train(page)
    output = tmp_path / "out"
    history = json.loads((output / "training_metrics.json").read_text())
    assert [entry["step"] for entry in history["validations"]] == [2, 4]
    assert history["stopped"]
    assert set(lines(output)[0]) >= {"loss_mask", "loss_dice", "loss_iou", "loss_time"}
    before, after = toy_sam2(image_size=32), finetuned_sam2(output)
    averaged = finetuned_sam2(output, ema=True)
    assert set(after.state_dict()) == set(before.state_dict())  # merged
    for model in (after, averaged):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, before.state_dict()[name], atol=1e-6, rtol=1e-5)
    assert np.array_equal(track(after), track(before.eval()))
    config = str(output / "config.py")
    whole = tmp_path / "whole.safetensors"
    arguments = [str(output / "best.pth"), str(whole), "--to", "ours", "--config", config]
    assert convert_sam2.main(arguments) == 0
    merged = read_sam2_state(whole)
    assert set(merged) == set(before.blocks.state_dict())
    for name, value in after.blocks.state_dict().items():
        assert torch.equal(merged[name], value), name


def test_debugging_leaves_the_run_alone(tiny_page, tmp_path):
    page = tiny_page(trainer={"accumulate": 2, "devices": 2, "max_steps": 100})
    train(page, "--debug")
    assert main(["--config", str(page), "--debug", "--check"]) == 0  # again, over the first
    assert not (tmp_path / "out").exists()
    debug = tmp_path / "out_debug"
    assert [line["step"] for line in lines(debug)] == [1, 2]
    assert not list(debug.rglob("events.out.tfevents*"))


def test_several_devices_train_through_the_launcher(tiny_page, tmp_path, monkeypatch):
    """What the command would start, and that two processes of it train."""
    started = {}

    def start(command, *, env, check):
        started.update(command=command, deepspeed=env["DEEPSPEED"])
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr("tools.finetune_sam2.subprocess.run", start)
    page = tiny_page(trainer={"max_steps": 2, "val_interval": 4})
    output = tmp_path / "out"
    assert main(["--config", str(page), "--devices", "2"]) == 3  # the launcher's exit code
    config = str(output / "config.py")
    assert started["deepspeed"] == ""
    assert started["command"][:2] == ["bash", str(ROOT / "tools" / "dist.sh")]
    assert started["command"][2:] == ["train", config, "2", "--work-dir", str(output)]
    command = [config, "--work-dir", str(output), "--launcher", "pytorch"]
    run = run_tool("tools.train", command, tmp_path / "ranks", processes=2)
    assert run.exit_codes == [0, 0], run.output
    assert [line["step"] for line in lines(output)] == [1, 2]


# ---- the command, without training ----------------------------------------------------------


def test_a_created_page_asks_for_the_data_only(tmp_path, capsys, videos):
    path = tmp_path / "new" / "my.yaml"
    assert main(["--create-config", str(path)]) == 0
    assert main(["--create-config", str(path)]) == 2  # never over a page that was filled in
    assert "exists already" in capsys.readouterr().err
    assert main(["--config", str(path), "--check"]) == 2
    assert "dataset.images: data/mine/images does not exist" in capsys.readouterr().err
    data = [f"dataset.images={videos[0]}", f"dataset.annotations={videos[1]}"]
    arguments = ["--config", str(path), "--check", "--output", str(tmp_path / "out")]
    small = ["model.size=toy", "model.checkpoint=null", "dataset.val.fraction=0.25"]
    assert main([*arguments, "--set", *data, *small]) == 0
    assert "3 to train on, 1 held out" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()  # checking writes nothing


def test_command_line_mistakes_are_named(tiny_page, capsys, tmp_path):
    page = str(tiny_page())
    for arguments, words in (
        (["--lr", "-1"], "trainer.lr: -1.0 is given"),
        (["--set", "trainer.lrr=1"], "trainer.lrr: unknown key, did you mean 'lr'?"),
        (["--set", "trainer.lr"], "give KEY=VALUE"),
        (["--set", "trainer.lr=1e-4", "prompts.box=2"], "prompts.box: 2 is given"),
        (["--checkpoint", "nowhere.pt"], "model.checkpoint: nowhere.pt does not exist"),
    ):
        assert main(["--config", page, "--check", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "no.yaml")]) == 2
    with pytest.raises(SystemExit):
        main(["--config", page, "--lr", "fast"])


def test_a_folder_that_holds_a_run_is_not_written_over(tiny_page, capsys, tmp_path):
    held = tmp_path / "out" / "iter_3.pth"
    held.mkdir(parents=True)
    (held / "state.json").write_text("{}")
    assert main(["--config", str(tiny_page())]) == 2
    assert "holds a run (newest checkpoint: step 3); go on with --resume" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["iter_3.pth"]
