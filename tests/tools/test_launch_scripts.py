"""dist.sh over several nodes and slurm.sh: what they start, with stand-ins and for real."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from projects.common.engine.distributed import free_port
from tests.engine.processes import CONFIG

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stand_ins(tmp_path) -> Path:
    """A folder of programs that append their name and arguments to ``called``, as json."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "sbatch", "scontrol", "python"):
        file = folder / name
        file.write_text(
            "#!/usr/bin/env python3\nimport json, sys\n"
            f"with open({str(tmp_path / 'called')!r}, 'a') as log:\n"
            f"    log.write(json.dumps([{name!r}, *sys.argv[1:]]) + '\\n')\n"
        )
        file.chmod(0o755)
    return folder


def run(
    folder: Path, *command: str, **environment: str
) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """Run with the stand-ins first on PATH; returns also what they were called with."""
    settings = {"PATH": f"{folder}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["bash", *command],
        cwd=ROOT,
        env=settings | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    called = folder.parent / "called"
    lines = called.read_text().splitlines() if called.exists() else []
    return done, [json.loads(line) for line in lines]


def test_several_nodes_reach_torchrun(stand_ins):
    nodes = {"NNODES": "4", "NODE_RANK": "2", "MASTER_ADDR": "node 0", "PORT": "4321"}
    command = ("tools/dist.sh", "train", CONFIG, "8", "--work-dir", "a b")
    done, called = run(stand_ins, *command, **nodes, VIRTUAL_ENV="active")
    assert done.returncode == 0, done.stderr
    (words,) = called
    assert words[:2] == ["python", f"{ROOT}/tools/launch.py"]
    pairs = dict(zip(words[2:12:2], words[3:12:2], strict=True))
    assert pairs == {
        "--nnodes": "4",
        "--node_rank": "2",
        "--nproc_per_node": "8",
        "--master_addr": "node 0",
        "--master_port": "4321",
    }
    tail = ["--deepspeed", "deepspeed_zero2", "--work-dir", "a b", "--launcher", "pytorch"]
    assert words[12:] == [f"{ROOT}/tools/train.py", CONFIG, *tail]


@pytest.mark.parametrize("given", [{}, {"NODE_RANK": "1"}, {"MASTER_ADDR": "node0"}])
def test_a_node_without_its_place_is_refused(given, stand_ins):
    """It would wait for itself on 127.0.0.1."""
    done, called = run(stand_ins, "tools/dist.sh", "train", CONFIG, "1", NNODES="2", **given)
    assert done.returncode == 2 and not called
    assert "NODE_RANK (0 to 1) and MASTER_ADDR" in done.stderr


def test_two_nodes_of_one_process_train_together(tmp_path):
    """Both on this machine."""
    nodes = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "PORT": str(free_port())}
    settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DEEPSPEED": ""}
    options = ["--cfg-options", "train_cfg.max_steps=4", "train_dataloader.batch_size=3"]
    command = ["bash", "tools/dist.sh", "train", CONFIG, "1", "--work-dir", str(tmp_path / "run")]
    log = (tmp_path / "log.txt").open("w")
    started = [
        subprocess.Popen(
            [*command, *options],
            cwd=ROOT,
            env={**os.environ, **settings, **nodes, "NODE_RANK": str(rank)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        codes = [process.wait(timeout=900) for process in started]
    finally:
        for process in started:
            process.kill()
        log.close()
    assert codes == [0, 0], (tmp_path / "log.txt").read_text()
    state = json.loads((tmp_path / "run" / "iter_4.pth" / "state.json").read_text())
    # each node has its share
    assert {entry["global_batch"] for entry in state["mixture"]} == {2 * 3}


def test_a_batch_job_asks_for_all_that_is_set(stand_ins):
    wishes = {
        "PARTITION": "gpu part",
        "ACCOUNT": "lab",
        "QOS": "high",
        "TIME": "2-00:00:00",
        "JOB_NAME": "mine",
        "GPUS_PER_NODE": "4",
        "SRUN_ARGS": "--exclude=n7 --mem=0",
    }
    command = ("tools/slurm.sh", "train", CONFIG, "8", "--work-dir", "a b")
    done, called = run(stand_ins, *command, **wishes, BATCH="1")
    assert done.returncode == 0, done.stderr
    (words,) = called
    script = words.index(f"{ROOT}/tools/slurm_job.sh")
    assert words[0] == "sbatch" and set(words[1:script]) == {
        "--partition=gpu part",
        "--account=lab",
        "--qos=high",
        "--time=2-00:00:00",
        "--job-name=mine",
        "--nodes=2",
        "--ntasks=8",
        "--ntasks-per-node=4",
        "--gres=gpu:4",
        "--cpus-per-task=8",
        "--requeue",
        "--signal=B:USR1@120",
        "--open-mode=append",
        "--exclude=n7",
        "--mem=0",
    }
    assert words[script + 1] == "train" and words[script + 3] == f"{ROOT}/tools/train.py"
    assert words[-4:] == ["--work-dir", "a b", "--launcher", "slurm"]


def test_gpus_that_fill_no_whole_nodes_are_refused(stand_ins):
    done, called = run(stand_ins, "tools/slurm.sh", "train", CONFIG, "12")
    assert done.returncode == 2 and not called and "12 GPUs" in done.stderr


@pytest.mark.parametrize(
    ("verb", "restarts", "resumed"), [("train", "0", 0), ("train", "2", 1), ("test", "2", 0)]
)
def test_a_job_that_was_queued_again_resumes(verb, restarts, resumed, stand_ins):
    command = ("tools/slurm_job.sh", verb, "py", "train.py", "my config.py")
    done, called = run(stand_ins, *command, SLURM_RESTART_COUNT=restarts, SLURM_JOB_ID="5")
    assert done.returncode == 0, done.stderr
    (words,) = called
    end = words.index("py")
    assert words[end:] == ["py", "train.py", "my config.py", *["--resume"] * resumed]


def test_a_job_near_its_time_limit_queues_itself_again(stand_ins):
    """srun is told nothing: the checkpoint that is there is whole. Its exit code is the job's."""
    srun = stand_ins / "srun"
    srun.write_text(f"#!/bin/bash\nkill -USR1 $PPID; sleep 0.5; touch {stand_ins}/ended; exit 3\n")
    done, called = run(stand_ins, "tools/slurm_job.sh", "train", "py", SLURM_JOB_ID="77")
    assert called == [["scontrol", "requeue", "77"]]
    assert done.returncode == 3 and (stand_ins / "ended").exists()
