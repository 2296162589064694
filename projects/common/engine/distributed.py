"""Processes: who am I, start the group, leave it.

mmengine's ``init_dist`` calls ``torch.cuda.set_device`` without asking whether there is CUDA, so
the group is started here, before mmengine looks; it then leaves it alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

LAUNCHERS = ("none", "pytorch", "slurm")
_LAST_WORD = 20.0  # seconds that a launcher has to end a process


def infer_launcher() -> str:
    """``pytorch`` under torchrun, ``slurm`` under srun, else ``none``."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        return "pytorch"
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return "slurm"
    return "none"


def planned_processes(launcher: str) -> int:
    """How many processes the run has, before they know each other."""
    variable = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS"}.get(launcher)
    return int(os.environ.get(variable, "1")) if variable else 1


def init_distributed(launcher: str, *, always: bool = False) -> None:
    """Start the process group (nccl with CUDA, gloo without) and choose this rank's device.

    Args:
        launcher: one of :data:`LAUNCHERS`.
        always: start a group of one where the launcher is ``none`` (DeepSpeed needs one).
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"launcher {launcher!r} is unknown: choose one of {', '.join(LAUNCHERS)}")
    if dist.is_initialized() or (launcher == "none" and not always):
        return
    if launcher == "slurm":
        _adopt_slurm()
    elif launcher == "none":
        _adopt_single()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))


def leave_distributed() -> None:
    """Destroy the group: without this a rank may abort at exit after all went well (seen with
    gloo and torch 2.13), and torchrun then reports a failure."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def refuse(message: str) -> NoReturn:
    """End the command of a user who made a mistake, which all processes of a machine have found.

    The first of them says it, and its launcher ends the others; one that nobody has ended by then
    is alone with its mistake, and says it too.
    """
    first = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
    time.sleep(0 if first else _LAST_WORD)
    sys.exit(message)


def get_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def get_world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def mean_over_ranks(values: dict[str, float]) -> dict[str, float]:
    """Mean of each key over the ranks that have it; the same dict on every rank."""
    if get_world_size() == 1:
        return dict(values)
    gathered: list[dict[str, float]] = [{} for _ in range(get_world_size())]
    dist.all_gather_object(gathered, values)
    keys = dict.fromkeys(key for part in gathered for key in part)
    parts = {key: [part[key] for part in gathered if key in part] for key in keys}
    return {key: sum(part) / len(part) for key, part in parts.items()}


def _adopt_single() -> None:
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(free_port())


def _adopt_slurm() -> None:
    nodes = os.environ["SLURM_NODELIST"]
    hosts = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], check=True, capture_output=True, text=True
    )
    os.environ.setdefault("MASTER_ADDR", hosts.stdout.split()[0])
    # every task of a job must come to the same port, and two jobs on a node to different ones
    os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ["SLURM_JOB_ID"]) % 20000))
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
