"""The command on a small SA-V: its mistakes, its command lines, and a real run on a CPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from projects.common.engine.config import load_config, plain
from projects.sam2_video.modeling import build_sam2, sam2_config, to_meta_state
from projects.sav_finetune.train_sav import main
from projects.toy_world.generate import generate
from projects.toy_world.world import World

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sav(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world") / "toy"
    generate(World(seed=0, sizes={"sav_train": 3, "sav_val": 1}, sav_frames=3), root)
    return root / "SA-V"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A SAM 2.1 tiny as Meta writes it, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "start.pt"
    torch.save({"model": to_meta_state(build_sam2(sam2_config("tiny", image_size=128)))}, path)
    return path


@pytest.fixture
def options(sav, checkpoint, tmp_path) -> list[str]:
    return [
        *("--train-frames", str(sav / "train"), "--train-annotations", str(sav / "train")),
        *("--checkpoint", str(checkpoint), "--experiment-dir", str(tmp_path / "my run")),
        *("--gpus", "1"),
    ]


def mistakes(*arguments: str) -> list[str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert isinstance(stopped.value.code, str)
    first, *lines = re.split(r"\n  (?! )", stopped.value.code)  # further lines of one lie deeper
    assert first.startswith(f"nothing was started, there are {len(lines)} mistake")
    return lines


def test_all_mistakes_at_once_and_nothing_is_written(sav, tmp_path):
    found = mistakes(
        *("--train-frames", str(tmp_path / "nowhere"), "--train-annotations", str(sav / "train")),
        *("--checkpoint", str(tmp_path / "sam2.1_hiera_small.pt"), "--file-list", "no_list.txt"),
        *("--experiment-dir", str(tmp_path / "run"), "--gpus", "0", "--image-size", "100"),
        *("--seed", "-1"),
        *("--partition", "gpu", "--num-nodes", "2", "--val-frames", str(sav)),
        *("--cfg-options", "train_dataloader.bach_size=2"),
    )
    starts = [line.split(":")[0].split(" ")[0] for line in found]
    assert starts == [
        "--checkpoint",
        "--gpus",
        "--seed",
        "--image-size",
        "--train-frames",
        "--file-list",
        "--val-frames",
        "--partition",
        "--num-nodes",
        "train_dataloader.bach_size",
    ]
    assert "092824/sam2.1_hiera_small.pt" in found[0]
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_size(options, checkpoint):
    (line,) = mistakes(*options, "--model-size", "large")
    assert line == f"--checkpoint: {checkpoint} is of size 'tiny', --model-size says 'large'"


def test_annotations_without_their_video(options, sav, tmp_path):
    (tmp_path / "list.txt").write_text("sav_000000\nsav_777777\n")
    (line,) = mistakes(*options, "--file-list", str(tmp_path / "list.txt"))
    assert line.startswith("--train-annotations: ") and "sav_777777_manual.json" in line


def test_masks_of_a_validation_set_without_their_frames(options, sav, tmp_path):
    """Found before the training and not at its first validation."""
    validation = sav / "sav_val"
    (video,) = (validation / "Annotations_6fps").iterdir()
    copy = tmp_path / "masks"
    shutil.copytree(video.parent, copy)
    mask = next((copy / video.name).rglob("*.png"))
    mask.rename(mask.with_name("77777.png"))
    places = ["--val-frames", str(validation / "JPEGImages_24fps"), "--val-annotations", str(copy)]
    (line,) = mistakes(*options, *places)
    assert line.startswith("--val-annotations: 1 annotated frames of video") and "77777" in line


def test_dry_run_shows_the_command_and_writes_nothing(options, tmp_path, capsys):
    main([*options, "--dry-run"])
    folder = tmp_path / "my run"
    assert capsys.readouterr().out == (
        f"bash {ROOT}/tools/dist.sh train '{folder}/train_sav.py' 1 --work-dir '{folder}'\n"
    )
    assert not folder.exists()


@pytest.fixture
def fake_srun(tmp_path, monkeypatch) -> Path:
    """Stands in for srun: writes its arguments down, one a line."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "srun").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "{tmp_path}/called"\n')
    (folder / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path / "called"


@pytest.fixture
def run(monkeypatch):
    """The command in this process; what it starts is started, without a GPU."""
    started: list[subprocess.CompletedProcess] = []

    def start(file: str, command: list[str], environment: dict[str, str]) -> None:
        settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DEEPSPEED": ""}
        environment = {**environment, **settings}
        started.append(
            subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        )

    def run_command(arguments: list[str]) -> None:
        main(arguments)
        assert started[-1].returncode == 0, started[-1].stdout + started[-1].stderr

    monkeypatch.setattr(os, "execvpe", start)
    return run_command


def test_a_cluster_gets_nodes_account_and_quality(options, fake_srun, run, tmp_path):
    cluster = ["--use-cluster", "1", "--partition", "gpu part", "--account", "lab", "--qos", "high"]
    run([*options[:-1], "4", *cluster, "--num-nodes", "2"])
    called = fake_srun.read_text().splitlines()
    expected = {"--partition=gpu part", "--account=lab", "--qos=high", "--job-name=my run"}
    assert expected | {"--ntasks=8", "--ntasks-per-node=4", "--gres=gpu:4"} <= set(called)
    config = str(tmp_path / "my run" / "train_sav.py")
    tail = called[called.index(config) :]
    assert tail == [config, "--work-dir", str(tmp_path / "my run"), "--launcher", "slurm"]
    assert Path(config).is_file()


def test_the_config_as_run_holds_the_options(options, fake_srun, run, sav, checkpoint, tmp_path):
    further = ["--batch-size", "2", "--epochs", "7", "--num-workers", "3", "--seed", "11"]
    further += ["--image-size", "256", "--num-frames", "5", "--max-objects", "2"]
    run([*options, *further, "--use-cluster", "1"])
    tree = plain(load_config(tmp_path / "my run" / "train_sav.py"))
    sam2, loader = tree["model"]["sam2"], tree["train_dataloader"]
    (entry,) = loader["datasets"]
    dataset = entry["dataset"]
    assert (sam2["size"], sam2["checkpoint"], sam2["image_size"]) == ("tiny", str(checkpoint), 256)
    assert dataset["source"]["frame_root"] == str(sav / "train")
    assert (dataset["sampler"]["num_frames"], dataset["sampler"]["max_objects"]) == (5, 2)
    assert [t["size"] for t in dataset["transforms"] if "size" in t] == [256]
    assert (loader["batch_size"], loader["num_workers"], tree["seed"]) == (2, 3, 11)
    assert tree["train_cfg"] == {"max_epochs": 7}
    assert tree["optim_wrapper"]["optimizer"]["lr"] == 5e-6
    assert "benchmarks" not in tree and "validation" not in tree


def test_trains_and_validates(options, sav, run, tmp_path, capsys):
    """Two steps of a SAM 2.1 tiny from Meta's file; a second run there has to be --resume."""
    folder = tmp_path / "my run"
    small = ["--image-size", "128", "--num-frames", "2", "--max-objects", "1", "--batch-size", "2"]
    small += ["--num-workers", "0", "--cfg-options", "precision=fp32", "log.interval=1"]
    small += ["model.trainable=[sam2.blocks.mask_decoder]"]  # small checkpoints, fast
    validation = sav / "sav_val"
    small = [
        *("--val-frames", str(validation / "JPEGImages_24fps")),
        *("--val-annotations", str(validation / "Annotations_6fps")),
        *small,
    ]
    run([*options, "--epochs", "1", *small])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert (folder / "model.safetensors").is_file()
    assert any("val/J&F" in line for line in lines), lines

    (refused,) = mistakes(*options, "--epochs", "2", *small)
    assert refused.startswith("--experiment-dir") and "--resume" in refused

    capsys.readouterr()
    main([*options, "--epochs", "2", "--resume", *small, "--dry-run"])
    assert capsys.readouterr().out.endswith(f"--work-dir '{folder}' --resume\n")
