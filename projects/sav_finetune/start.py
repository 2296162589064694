"""The command that a run is started by: a list of words, never a line for a shell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

TOOLS = Path(__file__).resolve().parents[2] / "tools"


class Start(NamedTuple):
    command: list[str]
    environment: dict[str, str]  # beside what is set already


def start_command(options: argparse.Namespace, *, config: Path) -> Start:
    """``tools/dist.sh``, or ``tools/slurm.sh`` with ``--use-cluster 1``, on ``config``."""
    tail = ["--work-dir", str(config.parent), *(["--resume"] if options.resume else [])]
    if not options.use_cluster:
        script = ["bash", str(TOOLS / "dist.sh"), "train", str(config), str(options.gpus)]
        return Start([*script, *tail], {})
    tasks = options.gpus * options.num_nodes
    settings = {
        "PARTITION": options.partition,
        "ACCOUNT": options.account,
        "QOS": options.qos,
        "JOB_NAME": config.parent.name,
        "GPUS_PER_NODE": str(options.gpus),
    }
    script = ["bash", str(TOOLS / "slurm.sh"), "train", str(config), str(tasks)]
    return Start([*script, *tail], {key: value for key, value in settings.items() if value})
