"""Real training processes that can be killed at an exact moment, without paying for imports.

A fork server imports everything once; each process of a run is forked from it and calls the same
``main`` as ``python tools/train.py``. A ``Kill`` makes a process SIGKILL itself at the n-th call of
a function; all others of the run are then killed as well, as a machine that goes down would.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from torch.multiprocessing import start_processes

from projects.common.engine.distributed import free_port

CONFIG = "tests/engine/dummy_config.py"
TIMEOUT = 900.0

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "projects.common.engine.zero",
        "tools.train",
        "tools.test",
        "tools.finetune_sam2",
        "projects.sam2_video.evaluation.vos",
        "projects.sam2_video.train_model",
        "torch.utils.tensorboard",
    ]
)


class Kill(NamedTuple):
    """Die at a call of ``module:attribute``: before it runs, after it, or half-way (``torn``: the
    file it has written is cut in the middle). ``full`` lets it live, on a disk that takes no more
    than 128 KiB a file from then on."""

    target: str
    call: int = 1
    moment: str = "before"
    rank: int = 0


class Run(NamedTuple):
    exit_codes: list[int]  # of each rank; -9 where it was killed
    output: str  # of all ranks


def metrics(work_dir: Path) -> list[dict]:
    """The lines that a run has logged."""
    return [json.loads(line) for line in (work_dir / "metrics.jsonl").read_text().splitlines()]


def train(
    work_dir: Path,
    *arguments: str,
    processes: int = 1,
    options: tuple[str, ...] = (),
    kill: Kill | None = None,
    config: str = CONFIG,
) -> Run:
    """Run ``tools/train.py config --work-dir work_dir arguments`` to its end."""
    command = [config, "--work-dir", str(work_dir), *arguments]
    if options:
        command += ["--cfg-options", *options]
    return run_tool("tools.train", command, work_dir, processes=processes, kill=kill)


def run_tool(
    tool: str, command: list[str], work_dir: Path, *, processes: int = 1, kill: Kill | None = None
) -> Run:
    log = work_dir.with_name(f"{work_dir.name}.log")
    log.unlink(missing_ok=True)
    port = free_port()
    # the fork server has the environment of the test that started it
    environment = dict(os.environ)
    ranks = [
        _CONTEXT.Process(
            target=_enter, args=(tool, command, environment, rank, processes, port, log, kill)
        )
        for rank in range(processes)
    ]
    for process in ranks:
        process.start()
    _wait_for_all(ranks)
    return Run([process.exitcode for process in ranks], log.read_text())


def run(worker: Callable[..., None], *arguments: Any) -> None:
    """Call ``worker(rank, *arguments)`` in two processes; an exception of either is raised here."""
    start_processes(worker, arguments, nprocs=2, start_method="forkserver")


def _wait_for_all(ranks: list) -> None:
    running = {process.sentinel: process for process in ranks}
    while running:
        ended = wait(list(running), timeout=TIMEOUT)
        failed = [running.pop(sentinel) for sentinel in ended]
        failed = [process for process in failed if _exit_code(process) != 0]
        if failed or not ended:
            for process in running.values():
                process.kill()
    for process in ranks:
        process.join()


def _exit_code(process) -> int:
    process.join()
    return process.exitcode


def _enter(tool, command, environment, rank, processes, port, log, kill) -> None:
    _redirect(log)
    os.environ.clear()
    os.environ.update(environment)
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")
    if processes > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if kill is not None and kill.rank == rank:
        _arm(kill)
    sys.argv = [tool, *command]
    try:
        importlib.import_module(tool).main()
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _arm(kill: Kill) -> None:
    module_name, _, path = kill.target.partition(":")
    owner = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)
    calls = 0

    def armed(*args, **kwargs):
        nonlocal calls
        calls += 1
        due = calls == kill.call
        if due and kill.moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if due and kill.moment == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, resource.RLIM_INFINITY))
        result = original(*args, **kwargs)
        if due and kill.moment == "torn":
            path = next(arg for arg in args if isinstance(arg, Path))
            os.truncate(path, path.stat().st_size // 2)
        if due and kill.moment != "full":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, armed)
