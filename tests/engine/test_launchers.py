"""The command lines that people type, started for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.engine.processes import CONFIG, train

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("train_dataloader.batch_size=2", "train_cfg.max_steps=120", "checkpoint.interval=20")


def losses(work_dir: Path) -> list[tuple[int, float]]:
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    return [(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines]


def start(script: str, *arguments: str, log: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(ROOT / "tools" / script), *arguments]
    with log.open("a") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL the launcher and all its workers, which torchrun puts into sessions of their own."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=10)
    process.wait()


def test_dist_sh_killed_and_resumed(tmp_path):
    """Two processes, gloo, ZeRO-2, without --deepspeed being said."""
    work_dir, log = tmp_path / "run", tmp_path / "log.txt"
    command = ["train", CONFIG, "2", "--work-dir", str(work_dir), "--cfg-options", *OPTIONS]
    process = start("dist.sh", *command, log=log)
    try:
        deadline = time.monotonic() + 900
        metrics = work_dir / "metrics.jsonl"
        while not (metrics.is_file() and len(metrics.read_bytes().splitlines()) >= 50):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.005)
    finally:
        kill_all(process)
    reached = losses(work_dir)[-1][0]
    assert 50 <= reached < 120
    assert not (work_dir / "model.safetensors").exists()

    assert start("dist.sh", *command, "--resume", log=log).wait(timeout=900) == 0, log.read_text()
    reference = tmp_path / "reference"
    undisturbed = train(reference, "--deepspeed", "deepspeed_zero2", processes=2, options=OPTIONS)
    assert undisturbed.exit_codes == [0, 0], undisturbed.output
    assert losses(work_dir) == losses(reference)
    assert (work_dir / "iter_120.pth" / "zero").is_dir()


def test_a_mistake_is_said_once_for_all_processes(tmp_path):
    log = tmp_path / "log.txt"
    wrong = ["--cfg-options", "model.widht=8"]
    command = ["train", CONFIG, "3", "--work-dir", str(tmp_path / "run"), *wrong]
    assert start("dist.sh", *command, log=log).wait(timeout=900) == 1
    said = log.read_text()
    assert said.count("model.widht: DummyModel has no such key, did you mean 'width'?") == 1
    assert said.splitlines()[-1].startswith("rank 0 ended first, with exit code 1: ")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere.py",), "config nowhere.py does not exist"),
        ((CONFIG, "--resume", "iter_4.pth"), "iter_4.pth has no state.json: --resume needs"),
        ((CONFIG, "--load-from", "nowhere"), "nowhere does not exist: give a checkpoint folder"),
    ],
)
def test_what_is_not_there_is_told_without_a_traceback(arguments, told, tmp_path):
    log = tmp_path / "log.txt"
    process = start("debug.sh", "train", *arguments, "--work-dir", str(tmp_path / "run"), log=log)
    assert process.wait(timeout=900) == 1
    said = log.read_text()
    assert told in said and "Traceback" not in said and "where to get it" not in said


def test_a_process_that_is_killed_is_named(tmp_path):
    command = [sys.executable, "tools/launch.py", "--nproc_per_node", "2", "--master_port", "0"]
    script = tmp_path / "die.py"
    script.write_text(
        "import os, time\nif os.environ['RANK'] == '1': os.kill(os.getpid(), 9)\ntime.sleep(60)\n"
    )
    done = subprocess.run([*command, script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "rank 1 ended first, by SIGKILL, as the system does" in done.stderr


def test_debug_sh_is_one_plain_process(tmp_path):
    work_dir, log = tmp_path / "run", tmp_path / "log.txt"
    options = ("train_cfg.max_steps=8", "train_dataloader.num_workers=2")
    command = ["train", CONFIG, "--work-dir", str(work_dir), "--cfg-options", *options]
    assert start("debug.sh", *command, log=log).wait(timeout=900) == 0, log.read_text()
    assert "num_workers=0" in (work_dir / "dummy_config.py").read_text()
    assert (work_dir / "iter_8.pth" / "optimizer.pt").is_file()
    reference = tmp_path / "reference"
    train(reference, options=options)  # with two workers
    assert losses(work_dir) == losses(reference)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("dist.sh", ()),
        ("dist.sh", ("train", CONFIG)),
        ("dist.sh", ("train", CONFIG, "two")),
        ("dist.sh", ("finetune", CONFIG, "2")),
        ("debug.sh", ("train",)),
        ("slurm.sh", ("train", CONFIG)),
    ],
)
def test_wrong_calls_show_the_right_ones(script, arguments, tmp_path):
    log = tmp_path / "log.txt"
    assert start(script, *arguments, log=log).wait(timeout=120) == 2
    assert log.read_text().startswith(f"bash tools/{script} train CONFIG")


def test_slurm_sh_asks_srun_for_the_right_tasks(tmp_path):
    """A stand-in for srun writes down how it was called."""
    fake = tmp_path / "srun"
    fake.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/called\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PARTITION": "gpu part"}
    command = ["bash", "tools/slurm.sh", "train", CONFIG, "16", "--resume"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120)
    called = (tmp_path / "called").read_text().splitlines()
    assert {"--partition=gpu part", "--ntasks=16", "--ntasks-per-node=8", "--gres=gpu:8"} <= set(
        called
    )
    tail = called[called.index(CONFIG) :]
    assert tail == [CONFIG, "--deepspeed", "deepspeed_zero2", "--resume", "--launcher", "slurm"]
