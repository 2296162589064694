"""A long text on one rank and shared out over several: what each of them holds and computes.

The same weights and tokens; the losses must be equal. Every rank is a process of its own on the
CPU, in a gloo group.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist
from torch.multiprocessing import spawn

import projects  # noqa: F401  (compatibility lines first)
from projects.common import sequence
from projects.common.engine.distributed import free_port
from projects.llava_sam2.models.recompute import recompute_layers
from tools.bench import common
from tools.bench.language_step import build, held, make_batch, ours, step


def measure(rank: int, ranks: int, port: int, arguments: argparse.Namespace, out: Any) -> None:
    """One rank's numbers of a step, into the queue ``out``."""
    torch.set_num_threads(arguments.threads)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    try:
        sequence.start(ranks)
        mllm = build(arguments)
        if arguments.recompute:
            recompute_layers(mllm.model)
        batch = make_batch(mllm, arguments, arguments.answer)
        loss = float(step(mllm, ours, batch))
        saved, peak = held(mllm, ours, batch, "cpu")
        seconds = [
            common.seconds_of(lambda: step(mllm, ours, batch), clock="cpu")
            for _ in range(arguments.repeats)
        ]
        numbers = {"loss": loss, "held": saved, "peak": peak, "seconds": min(seconds)}
        gathered: list[Any] = [None] * ranks
        dist.all_gather_object(gathered, numbers)
        if rank == 0:
            out.put(gathered)
    finally:
        dist.destroy_process_group()


def run(ranks: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row of the table: of the rank that holds or computes most."""
    out = torch.multiprocessing.get_context("spawn").SimpleQueue()
    spawn(measure, (ranks, free_port(), arguments, out), nprocs=ranks)
    numbers = out.get()
    most = {key: max(entry[key] for entry in numbers) for key in numbers[0]}
    row = {
        "ranks": ranks,
        "tokens": arguments.tokens,
        "recomputed": arguments.recompute,
        "loss": most["loss"],
        "held_MB": most["held"] / 2**20,
        "peak_MB": most["peak"] / 2**20,
        "cpu_s_per_rank": most["seconds"],
    }
    common.log_row(row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=8192, help="visual ones included")
    parser.add_argument("--answer", type=int, default=256, help="supervised tokens")
    parser.add_argument("--tiles", type=int, default=1)
    parser.add_argument("--width", type=int, default=256, help="of language model and vision")
    parser.add_argument("--layers", type=int, default=4, help="of both")
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    common.add_arguments(parser)
    arguments = parser.parse_args()
    arguments.device = "cpu"
    common.start(arguments)
    rows = [run(ranks, arguments) for ranks in arguments.ranks]
    if max(row["loss"] for row in rows) - min(row["loss"] for row in rows) > 1e-4:
        raise RuntimeError(f"the losses differ: {[row['loss'] for row in rows]}")
    keys = ("width", "layers", "vocabulary", "tiles", "answer", "repeats")
    settings = {key: getattr(arguments, key) for key in keys}
    common.report("sequence parallel", rows, output=arguments.output, settings=settings)


if __name__ == "__main__":
    main()
