"""Masks for all videos of a data set in files: resumable, over processes, frame by frame.

    video_root/<video>/00000.jpg or <video>.mp4 ┐
    annotation_root/<video>/..., given masks    ┴─► VideoPredictor ─► .<video>.partial ─► <video>

A video's folder is renamed into place when its last mask is written, so that a run that was stopped
goes on with the videos that lack. ``inference.json`` beside them remembers what made them: masks of
two models never mix. A video is locked while it is written: two processes never write the same one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from projects.common.evaluation import model_fingerprint
from projects.common.masks import read_palette, write_binary_png, write_palette_png
from projects.common.progress import track
from projects.common.video import FrameFolder
from projects.common.whole_file import whole_file
from projects.sam2_video.data.png import (
    FolderVideo,
    PaletteSource,
    PaletteVideo,
    PerObjectSource,
)
from projects.sam2_video.evaluation.given import (
    GivenObject,
    check_annotations,
    find_objects,
    mask_prompts,
)
from projects.sam2_video.evaluation.loading import ModelSpec
from projects.sam2_video.predictor import VideoPredictor

logger = logging.getLogger(__name__)

RECORD = "inference.json"
MOST_PALETTE_OBJECTS = 254  # 0 is background, 255 void


@dataclass(frozen=True)
class VosSettings:
    """What is given to the tracker, and what is written of it.

    Args:
        per_object_output: a folder of binary PNGs per object; else palette PNGs, in which a pixel
            belongs to one object: the one with the highest logit.
        use_all_masks: every annotated mask is given, not only the first of an object.
        late_objects: track objects that appear after the first annotated frame, from their first
            mask on; else only those of the first annotated frame.
        annotated_only: write only the frames that are annotated.
    """

    per_object_output: bool
    use_all_masks: bool = False
    late_objects: bool = True
    annotated_only: bool = False


@dataclass(frozen=True)
class VosJob:
    """All that a process must know to work on a data set; plain values."""

    model: ModelSpec
    settings: VosSettings
    video_root: Path
    annotation_root: Path
    output_root: Path
    per_object_input: bool
    video_list: Path | None = None

    def source(self) -> PaletteSource | PerObjectSource:
        """The videos.

        Raises:
            FileNotFoundError, ValueError: folders that are not there, or hold no masks.
        """
        source_type = PerObjectSource if self.per_object_input else PaletteSource
        return source_type(
            image_root=self.video_root,
            annotation_root=self.annotation_root,
            list_file=self.video_list,
        )


def segment_videos(job: VosJob, names: Sequence[str], *, devices: Sequence[str]) -> None:
    """Write the masks of some videos of a job; those that are there stay.

    Args:
        names: of the job's source.
        devices: one process each (``cpu``, ``cuda:0``); with one, this process does it.

    Raises:
        ValueError: ``output_root`` holds masks of another model or of other settings; videos
            whose annotations cannot be given, all of them, before the first one is tracked.
    """
    todo = [name for name in names if not (job.output_root / name).is_dir()]
    check_annotations(_source(job), todo)
    job.output_root.mkdir(parents=True, exist_ok=True)
    if len(todo) < len(names):
        logger.info("%s: %d of %d are done", job.output_root, len(names) - len(todo), len(names))
    if not todo:
        _predictor(job, devices[0])  # compares its weights and settings with those of the masks
        return
    with _workers(job, list(devices)[: len(todo)]) as results:
        for _ in track(results(todo), total=len(todo), description="videos"):
            pass


def segment_video(
    predictor: VideoPredictor, video: FolderVideo, folder: Path, settings: VosSettings
) -> None:
    """Track the annotated objects of one video and write ``folder``, whole or not at all.

    Raises:
        ValueError: no object, more than a palette has colours for, or another process at it.
    """
    with _locked(folder):
        if not folder.is_dir():  # another process may have finished it meanwhile
            _segment_locked(predictor, video, folder, settings)


def _segment_locked(
    predictor: VideoPredictor, video: FolderVideo, folder: Path, settings: VosSettings
) -> None:
    objects = find_objects(video, late_objects=settings.late_objects)
    prompts = mask_prompts(video, objects, use_all_masks=settings.use_all_masks)
    names = _frame_names(video)
    wanted = set(video.frame_indices) if settings.annotated_only else set(range(len(names)))
    order = predictor.object_ids(prompts)
    unfinished = folder.with_name(f".{folder.name}.partial")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    writer = _writer(unfinished, video, objects, per_object=settings.per_object_output)
    start = min(prompt.frame for prompt in prompts)
    empty = np.zeros(video.folder.size, dtype=bool)
    for position in sorted(wanted & set(range(start))):  # nothing is there before the first mask
        writer.write(names[position], {key: empty for key in order})
    last = max(wanted)
    for position, masks in predictor.propagate(video.folder, prompts):
        if position in wanted:
            writer.write(names[position], dict(zip(order, masks, strict=True)))
        if position == last:
            break
    os.replace(unfinished, folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else writes this folder; the lock of a process that dies is gone with it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is writing {folder}: let it finish, or share the videos "
                "out by --shard or --workers"
            ) from error
        yield
        path.unlink()  # the folder is in place: whoever opened this file before finds it done


def claim_output(root: Path, record: dict[str, Any]) -> None:
    """Note what makes the masks of a folder, or compare with what made those in it.

    Raises:
        ValueError: it was something else, the message says what differs; or nobody knows what.
    """
    path = root / RECORD
    if path.is_file():
        before = json.loads(path.read_text())
        differing = [key for key in {**before, **record} if before.get(key) != record.get(key)]
        if differing:
            shown = ", ".join(f"{k} {before.get(k)!r}, now {record.get(k)!r}" for k in differing)
            raise ValueError(
                f"{root} holds masks that were made otherwise ({shown}): choose another folder for "
                "these, or delete that one"
            )
        return
    unknown = [entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."]
    if unknown:
        raise ValueError(
            f"{root} holds folders such as {unknown[0]!r} and no {RECORD}, so nobody knows what "
            "made them: choose an empty folder"
        )
    with whole_file(path) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")


def shard(names: Sequence[str], number: int, count: int) -> list[str]:
    """Every ``count``-th video, beginning with the ``number``-th, counted from 0."""
    return list(names)[number::count]


# ---- processes ----------------------------------------------------------------------------------


@contextmanager
def _workers(job: VosJob, devices: list[str]):
    """An ordered ``map`` of names to written videos, in this process or in one per device."""
    if len(devices) == 1:
        yield partial(map, partial(_segment, job, devices[0]))
        return
    context = _clean_processes()
    queue = context.Queue()
    for device in devices:
        queue.put(device)
    executor = ProcessPoolExecutor(
        len(devices), mp_context=context, initializer=_begin, initargs=(queue, len(devices))
    )
    try:
        yield lambda names: executor.map(_segment_here, [job] * len(names), names)
    finally:
        executor.shutdown(cancel_futures=True)


def _clean_processes() -> Any:
    """Processes that share no CUDA with this one, which does not survive a fork.

    Where there is a fork server, it imports torch once for all of them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


_device = "cpu"  # of a worker process


def _begin(queue: Any, workers: int) -> None:
    global _device
    _device = queue.get()
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def _segment_here(job: VosJob, name: str) -> None:
    _segment(job, _device, name)


def _segment(job: VosJob, device: str, name: str) -> None:
    predictor = _predictor(job, device)
    source = _source(job)
    video = source[source.names.index(name)]
    segment_video(predictor, video, job.output_root / name, job.settings)


@cache
def _source(job: VosJob) -> PaletteSource | PerObjectSource:
    return job.source()


@cache
def _predictor(job: VosJob, device: str) -> VideoPredictor:
    predictor = job.model.predictor(device, non_overlapping=not job.settings.per_object_output)
    weights = model_fingerprint(predictor.sam2)
    claim_output(
        job.output_root, {"weights": weights, **predictor.settings(), **asdict(job.settings)}
    )
    return predictor


# ---- files --------------------------------------------------------------------------------------


class _Writer(Protocol):
    def write(self, frame: str, masks: dict[int, np.ndarray]) -> None: ...


class _PaletteWriter:
    def __init__(self, folder: Path, palette: list[int] | None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.palette = palette

    def write(self, frame: str, masks: dict[int, np.ndarray]) -> None:
        ids = np.zeros(next(iter(masks.values())).shape, dtype=np.uint8)
        for key, mask in masks.items():
            ids[mask] = key
        write_palette_png(self.folder / f"{frame}.png", ids, self.palette)


class _PerObjectWriter:
    def __init__(self, folder: Path, names: dict[int, str]) -> None:
        self.folders = {key: folder / name for key, name in names.items()}
        for path in self.folders.values():
            path.mkdir(parents=True)

    def write(self, frame: str, masks: dict[int, np.ndarray]) -> None:
        for key, mask in masks.items():
            write_binary_png(self.folders[key] / f"{frame}.png", mask)


def _writer(
    folder: Path, video: FolderVideo, objects: list[GivenObject], *, per_object: bool
) -> _Writer:
    if per_object:
        return _PerObjectWriter(folder, {given.key: given.name for given in objects})
    highest = max(given.key for given in objects)
    if highest > MOST_PALETTE_OBJECTS:
        raise ValueError(
            f"video {video.folder.path}: object {highest} has no place in a palette, which ends at "
            f"{MOST_PALETTE_OBJECTS}; write a folder of PNGs per object"
        )
    palette = None
    if isinstance(video, PaletteVideo):  # servers and viewers expect the colours that were given
        palette = read_palette(video.mask_files[video.stems[objects[0].first]])
    return _PaletteWriter(folder, palette)


def _frame_names(video: FolderVideo) -> list[str]:
    """Names of all frames of a video, annotated or not."""
    if isinstance(video.folder, FrameFolder):
        return list(video.folder.names)
    return [f"{number:05d}" for number in range(len(video.folder))]
