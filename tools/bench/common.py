"""What the benches share: interleaved runs, memory, a table, and a JSON file with the machine.

Two things are compared in one process, in pairs, and each pair gives a ratio: what else the machine
does at that time slows both, and the median of the ratios stays.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from projects.common.whole_file import whole_file

logger = logging.getLogger(__name__)

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
PROC = Path("/proc/self")


@dataclass(frozen=True)
class Pairs:
    """Seconds of two callables, run by run.

    ``ratio`` and ``spread`` (lowest and highest) are of the pairs, first over second.
    """

    first: list[float]
    second: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.first, self.second, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def summary(self, first: str = "ours", second: str = "reference") -> dict[str, float]:
        """Medians and minima of both, the median ratio and its spread: a row of a table."""
        return {
            f"{first}_s": statistics.median(self.first),
            f"{second}_s": statistics.median(self.second),
            f"{first}_min_s": min(self.first),
            f"{second}_min_s": min(self.second),
            "ratio": self.ratio,
            "ratio_low": min(self.ratios),
            "ratio_high": max(self.ratios),
        }


def run_pairs(
    first: Callable[[], Any],
    second: Callable[[], Any],
    *,
    repeats: int = 5,
    warmup: int = 1,
    clock: str = "wall",
) -> Pairs:
    """Time two callables in turns; every other pair runs the second one first.

    Args:
        clock: ``wall``, or ``cpu`` (this process, all threads; steadier where others work too, but
            blind to work on a GPU and in child processes).

    Raises:
        ValueError: an unknown clock, or fewer than one repeat.
    """
    if clock not in CLOCKS:
        raise ValueError(f"unknown clock {clock!r}; choose one of {', '.join(CLOCKS)}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    for _ in range(warmup):
        first()
        second()
    pairs = Pairs([], [])
    for number in range(repeats):
        order = [(first, pairs.first), (second, pairs.second)]
        for run, seconds in order if number % 2 == 0 else order[::-1]:
            seconds.append(seconds_of(run, clock=clock))
    return pairs


def seconds_of(run: Callable[[], Any], *, clock: str = "wall") -> float:
    """Seconds of one call; waits for the GPU where there is one."""
    _synchronise()
    start = CLOCKS[clock]()
    run()
    _synchronise()
    return CLOCKS[clock]() - start


def _synchronise() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


@dataclass
class Measured:
    """Bytes; filled in when the context that gave it ends."""

    value: int = 0
    seen: set[int] = field(default_factory=set, repr=False)


@contextmanager
def saved_tensors(*, ignore: Sequence[torch.Tensor] = ()):
    """Bytes of distinct storages that autograd holds for backward, as a :class:`Measured`.

    Args:
        ignore: tensors that are alive anyway, such as parameters and inputs.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in ignore}
    measured = Measured()
    kept: list[torch.Tensor] = []  # a freed address could come back and be taken for a known one

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and storage.data_ptr() not in measured.seen:
            measured.seen.add(storage.data_ptr())
            measured.value += storage.nbytes()
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield measured
    kept.clear()


@contextmanager
def peak_memory(device: torch.device | str = "cpu"):
    """Highest memory above the start while inside, as a :class:`Measured`.

    On a CPU the resident set of this process (Linux; freed memory that the allocator keeps is part
    of the start), on a GPU what torch allocated.
    """
    measured = Measured()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        yield measured
        torch.cuda.synchronize()
        measured.value = torch.cuda.max_memory_allocated() - start
        return
    (PROC / "clear_refs").write_text("5")  # sets the high-water mark back to what is resident
    start = _status_bytes("VmRSS")
    yield measured
    measured.value = _status_bytes("VmHWM") - start


def resident_memory() -> int:
    """Bytes of this process that are in memory now (Linux)."""
    return _status_bytes("VmRSS")


def _status_bytes(key: str) -> int:
    for line in (PROC / "status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}: this measurement needs Linux")


# ---- output -----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--repeats``, ``--threads``, ``--output``, the same for all benches."""
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")


def start(arguments: argparse.Namespace) -> None:
    """Logging and the number of threads."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Where the figures were taken; the load says how busy the machine was."""
    found = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys as a markdown table; floats with three significant digits."""
    if not rows:
        raise ValueError("a table wants at least one row")
    columns = list(rows[0])
    cells = [columns] + [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = []
    for line in cells:
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        lines.append(f"| {' | '.join(padded)} |")
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(lines)


def log_row(row: dict[str, Any]) -> None:
    """Log a row when it is measured, so that a bench that is stopped was not for nothing."""
    logger.info("%s", ", ".join(f"{name} {_cell(value)}" for name, value in row.items()))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if 0.01 <= abs(value) < 1000 else f"{value:.3g}"
    return str(value)


def report(
    name: str,
    rows: Sequence[dict[str, Any]],
    *,
    output: Path | None = None,
    device: torch.device | str = "cpu",
    settings: dict[str, Any] | None = None,
) -> None:
    """Print the table with the machine; write both as JSON where ``output`` says so."""
    where = machine(device)
    described = ", ".join(f"{key} {value}" for key, value in where.items())
    sys.stdout.write(f"{name}: {described}\n{table(rows)}\n")
    if output is not None:
        content = {"bench": name, "machine": where, "settings": settings or {}, "rows": list(rows)}
        with whole_file(output) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n")
