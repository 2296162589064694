"""Write a whole toy world, in parallel, whole or not at all."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from projects.common.progress import Progress
from projects.toy_world.layouts import LAYOUTS
from projects.toy_world.layouts.files import write_json
from projects.toy_world.retold import WRITERS
from projects.toy_world.tokenizer import write_tokenizer
from projects.toy_world.world import World

logger = logging.getLogger(__name__)

SIDECAR = "toy_world.json"
_MARK = ".unfinished_toy_world"
_CONTENT = {
    "coco2014",
    "refer_seg",
    "video_datas",
    "SA-V",
    "DAVIS",
    "clip_features",
    "special_jsons",
    "sa2va_finetune",
    "llava_data",
    "glamm_data",
    "osprey-724k",
    "tokenizer",
    SIDECAR,
}


class Job(NamedTuple):
    """One image or video to draw."""

    layout: str
    split: str
    number: int


def generate(world: World, out: str | Path, *, workers: int = 1) -> bool:
    """Write ``world`` to the folder ``out``; returns False if it is there already.

    A toy world of another seed, size or version is replaced; any other content is left alone.

    Args:
        workers: processes; the bytes do not depend on it.

    Raises:
        ValueError: ``out`` holds files that are not a toy world's.
    """
    out = Path(out)
    if _is_there(world, out):
        logger.info("%s holds this toy world already", out)
        return False
    partial_out = out.with_name(out.name + ".tmp")
    with _unfinished(partial_out):
        labels = _write_items(world, partial_out, workers)
        write_tokenizer(partial_out / "tokenizer")
        write_json(partial_out / SIDECAR, {**world.settings(), "labels": labels})
        (partial_out / _MARK).unlink()
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial_out, out)
    return True


def _is_there(world: World, out: Path) -> bool:
    """Whether ``out`` is this world; raises if it may not be replaced."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise ValueError(f"{out}: is a file; name a folder for the toy world")
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return False
    if SIDECAR not in names:
        raise ValueError(
            f"{out}: is not empty and not a toy world (no {SIDECAR}); name another folder"
        )
    foreign = sorted(names - _CONTENT)
    try:
        found = json.loads((out / SIDECAR).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{out / SIDECAR}: not readable ({error}); remove {out}") from error
    settings = world.settings()
    if {key: found.get(key) for key in settings} == settings:
        return True
    if foreign:
        raise ValueError(
            f"{out}: an older toy world with files of others in it ({', '.join(foreign)}); move "
            "them away, then it can be replaced"
        )
    return False


@contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """A marked folder to write into; removed if the writing fails, and if an earlier one did."""
    if folder.exists():
        if not (folder / _MARK).is_file():
            raise ValueError(f"{folder}: is in the way and not ours to remove; move it away")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()
    try:
        yield
    except BaseException:
        shutil.rmtree(folder)
        raise


def _write_items(world: World, root: Path, workers: int) -> dict[str, Any]:
    jobs = [
        Job(name, split, number)
        for name, layout in LAYOUTS.items()
        for split in layout.SPLITS
        for number in range(world.size(name, split))
    ]
    records: dict[str, dict[str, list[Any]]] = {
        name: {split: [] for split in layout.SPLITS} for name, layout in LAYOUTS.items()
    }
    with Progress(total=len(jobs), description="Toy world") as progress:
        for job, record in zip(jobs, _results(jobs, world, root, workers), strict=True):
            records[job.layout][job.split].append(record)
            progress.update()
    labels: dict[str, Any] = {}
    for name, layout in LAYOUTS.items():
        labels |= layout.write_index(world, records[name], root)
    for write in WRITERS:
        write(world, records, root)
    return labels


def _results(jobs: list[Job], world: World, root: Path, workers: int) -> Iterator[Any]:
    """The jobs' records in the jobs' order."""
    run = partial(_run, world=world, root=root)
    if workers <= 1:
        yield from map(run, jobs)
        return
    # A forked worker starts at once; a fresh interpreter would import torch first.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with multiprocessing.get_context(method).Pool(workers) as pool:
        yield from pool.imap(run, jobs, chunksize=8)


def _run(job: Job, *, world: World, root: Path) -> Any:
    return LAYOUTS[job.layout].write_item(world, job.split, job.number, root)
