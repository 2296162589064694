"""Score folders of predicted masks against annotations: SA-V's, DAVIS', whoever made them.

    annotation_root/<video>/...  ┐                       one process each
    prediction_root/<video>/...  ┴─► (video, object) ─► VideoScorer ─► ObjectScore ─► FolderScores

What is missing in a prediction follows SA-V's evaluator where it says something (see
docs/vos_evaluation.md): a video without a folder is left out, with ``strict`` it is an error. A
missing object or frame of a predicted video is an empty mask, with ``strict`` an error.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from projects.common.progress import track
from projects.sam2_video.data.sources import require_all
from projects.sam2_video.evaluation.mask_folders import (
    MaskFolder,
    PerObjectMasks,
    open_masks,
)
from projects.sam2_video.evaluation.scorer import ObjectScore, VideoScorer, mean_scores

logger = logging.getLogger(__name__)


class _Unit(NamedTuple):
    """What one process scores at a time."""

    video: str
    objects: tuple[int, ...] | None  # None: all; a palette PNG is decoded once for all its objects


@dataclass(frozen=True)
class FolderScores:
    """Keys are (video, object); a palette index is an object's name with three digits."""

    objects: dict[tuple[str, str], ObjectScore]
    left_out: list[str] = field(default_factory=list)  # annotated videos without a prediction
    missing_files: list[str] = field(default_factory=list)  # taken as empty masks

    def summary(self) -> dict[str, float]:
        """``J&F``, ``J`` and ``F`` over all objects, in 0..1."""
        return mean_scores((score.region, score.boundary) for score in self.objects.values())

    @property
    def videos(self) -> list[str]:
        return list(dict.fromkeys(video for video, _ in self.objects))


def score_folders(
    annotation_root: str | Path,
    prediction_root: str | Path,
    *,
    videos: Sequence[str] | None = None,
    skip_first_and_last: bool = True,
    strict: bool = False,
    workers: int | None = None,
) -> FolderScores:
    """J and F of every annotated object.

    Args:
        videos: names to score; None: every folder of ``annotation_root``.
        skip_first_and_last: see ``scorer.py``.
        strict: whatever is missing is an error, and so is a predicted video, or a folder of a
            predicted object, that nobody annotated.
        workers: processes, by default one a core; 1 scores in this process.

    Raises:
        FileNotFoundError: a folder, or with ``strict`` a mask file, is not there.
        ValueError: nothing to score, or masks whose size is not that of their annotation.
    """
    truth, predicted = Path(annotation_root), Path(prediction_root)
    names = _annotated_videos(truth, videos)
    left_out = _unpredicted(predicted, names, strict=strict, all_videos=videos is None)
    kept = [name for name in names if name not in set(left_out)]
    if strict:
        _require_no_other_objects(truth, predicted, kept)
    units = list(_units(truth, kept))
    score = partial(
        _score_unit, truth, predicted, skip_first_and_last=skip_first_and_last, strict=strict
    )
    found = FolderScores({}, left_out)
    with _pool(min(workers or _cores(), len(units))) as run:
        for scores, missing in track(run(score, units), total=len(units), description="J and F"):
            found.objects.update(scores)
            found.missing_files.extend(missing)
    _log_gaps(found, prediction_root)
    if not found.objects:
        raise ValueError(
            f"{annotation_root}: none of {len(names)} videos has an object to score (the first and "
            "the last annotated frame do not count by default)"
        )
    return found


def _annotated_videos(root: Path, videos: Sequence[str] | None) -> list[str]:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of annotations")
    if videos is not None:
        missing = [str(root / name) for name in videos if not (root / name).is_dir()]
        require_all(missing, "annotated videos", "correct the list of videos")
        return list(videos)
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    if not names:
        raise ValueError(f"{root} holds no folders of videos")
    return names


def _unpredicted(root: Path, names: list[str], *, strict: bool, all_videos: bool) -> list[str]:
    """Videos that have no prediction."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of predictions")
    missing = [name for name in names if not (root / name).is_dir()]
    if strict:
        require_all([str(root / name) for name in missing], "predicted videos", "predict them")
        found = {path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."}
        extra = sorted(found - set(names)) if all_videos else []
        if extra:
            raise ValueError(f"{root}: {len(extra)} videos are not annotated, first: {extra[:10]}")
    if len(missing) == len(names):
        raise FileNotFoundError(
            f"{root} holds none of the {len(names)} annotated videos, such as {names[0]!r}; is it "
            "the folder that holds a folder per video?"
        )
    return missing


def _require_no_other_objects(truth: Path, predicted: Path, names: Sequence[str]) -> None:
    """Raise for predicted folders of objects that are not annotated."""
    for name in names:
        folders = open_masks(truth / name), open_masks(predicted / name)
        if not all(isinstance(masks, PerObjectMasks) for masks in folders):
            continue
        annotated, found = (masks.names() for masks in folders)
        extra = [found[key] for key in found if key not in annotated]
        if extra:
            raise ValueError(
                f"{predicted / name}: objects {', '.join(extra)} are not annotated, {truth / name} "
                f"has {', '.join(annotated.values())}; remove them, or score without strict"
            )


def _units(truth: Path, names: Sequence[str]) -> Iterator[_Unit]:
    for name in names:
        masks = open_masks(truth / name)
        if isinstance(masks, PerObjectMasks):
            yield from (_Unit(name, (key,)) for key in masks.files)
        else:
            yield _Unit(name, None)


def _score_unit(
    truth_root: Path, predicted_root: Path, unit: _Unit, *, skip_first_and_last: bool, strict: bool
) -> tuple[dict[tuple[str, str], ObjectScore], list[str]]:
    """Scores of a video, or of one object of it, and the mask files that were missing."""
    truth = open_masks(truth_root / unit.video)
    predicted = open_masks(predicted_root / unit.video)
    scorer, missing = VideoScorer(), list[str]()
    for stem, objects in truth.frames(unit.objects, skip_first_and_last=skip_first_and_last):
        truths = truth.read(stem, objects)
        predictions = predicted.read(stem, objects)
        missing += [str(file) for file in predicted.missing(stem, list(truths))]
        if strict and missing:
            raise FileNotFoundError(
                f"{missing[0]}: no prediction of an annotated frame; predict it, or score without "
                "strict"
            )
        empty = np.zeros(_one_size(truth, predicted, stem, truths, predictions), dtype=bool)
        for key in {*truths, *predictions, *scorer.started}:
            scorer.add(key, predictions.get(key, empty), truths.get(key, empty))
    names = truth.names()
    scores = scorer.scores()
    return {(unit.video, names.get(key, f"{key:03d}")): scores[key] for key in scores}, missing


def _one_size(
    truth: MaskFolder,
    predicted: MaskFolder,
    stem: str,
    truths: dict[int, np.ndarray],
    predictions: dict[int, np.ndarray],
) -> tuple[int, ...]:
    """(height, width) of all masks of a frame; any where there is none."""
    sizes = {mask.shape: truth.file(stem, key) for key, mask in truths.items()}
    for key, mask in predictions.items():
        if sizes and mask.shape not in sizes:
            size, file = next(iter(sizes.items()))
            raise ValueError(
                f"{predicted.file(stem, key)} is {mask.shape} (height, width), its annotation "
                f"{file} is {size}: write predictions at the size of the video"
            )
    return next(iter([*sizes, *(mask.shape for mask in predictions.values())]), (1, 1))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool(workers: int):
    """A context that gives an ordered ``map``, over processes where there are several.

    They are forked: they touch masks only, and importing torch in each would take longer than the
    scores of a small data set.
    """
    if workers <= 1:
        return nullcontext(map)
    return _Processes(workers)


class _Processes:
    def __init__(self, workers: int) -> None:
        fork = "fork" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if fork else None)
        self.executor = ProcessPoolExecutor(workers, mp_context=context)

    def __enter__(self):
        return self.executor.map

    def __exit__(self, *error: object) -> None:
        self.executor.shutdown(cancel_futures=True)


def _log_gaps(found: FolderScores, root: str | Path) -> None:
    if found.left_out:
        logger.warning(
            "%s: %d annotated videos have no prediction and are left out, first: %s",
            root,
            len(found.left_out),
            ", ".join(found.left_out[:5]),
        )
    if found.missing_files:
        logger.warning(
            "%s: %d mask files are missing and count as empty, first: %s",
            root,
            len(found.missing_files),
            found.missing_files[0],
        )
