"""Which part of the videos this process works on, and on which devices."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Share:
    """Part ``number`` of ``count``, counted from 0."""

    number: int
    count: int


def launched_share(text: str | None) -> Share:
    """``i/n`` of a command line (from 1), times the ranks of torchrun or srun.

    Raises:
        ValueError: not of that form.
    """
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if "RANK" not in os.environ and _under_srun():
        rank, ranks = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"])
    number, count = 1, 1
    if text is not None:
        parts = text.split("/")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            raise ValueError(f"shard {text!r}: write i/n, such as 1/4 for the first of four")
        number, count = int(parts[0]), int(parts[1])
        if not 1 <= number <= count:
            raise ValueError(f"shard {text!r}: shards count from 1 to n")
    return Share((number - 1) * ranks + rank, count * ranks)


def worker_devices(workers: int | None) -> list[str]:
    """A device for every worker of this process.

    Args:
        workers: None: one per GPU, or one without a GPU; under a launcher always one.

    Raises:
        ValueError: several workers in a process that a launcher started.
    """
    gpus = torch.cuda.device_count()
    local = os.environ.get("LOCAL_RANK", os.environ["SLURM_LOCALID"] if _under_srun() else None)
    if local is not None and workers not in (None, 1):
        raise ValueError("a launcher starts the processes here: leave --workers out")
    if local is not None:
        return [f"cuda:{int(local) % gpus}" if gpus else "cpu"]
    count = workers if workers is not None else max(gpus, 1)
    if count < 1:
        raise ValueError(f"workers must be at least 1, got {count}")
    return [f"cuda:{number % gpus}" if gpus else "cpu" for number in range(count)]


def _under_srun() -> bool:
    """Whether srun started this process as one of several; a batch script alone is one process,
    whatever the number of tasks that its job may start."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
