"""Examples out of an evaluation's records: which ones are shown, and their pictures.

A record holds ``image`` (a path; with ``frame``, a position within that video file) or ``video``
with ``frames``: a folder with names in it, a video file with positions, or whatever lists images
with their absolute paths. Beside it ``pred`` and ``gt`` (RLE; for a video a list with one RLE or
null per frame), a score (``iou``, or ``J`` and ``F``) and ``expression`` where a language model was
asked, else ``object`` and perhaps ``click``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from projects.common import visualise
from projects.common.masks import decode_rle
from projects.common.video import IMAGE_SUFFIXES, FrameFolder, VideoFile, read_image

Record = dict[str, Any]
FRAMES_SHOWN = 6

# Where in the ranking by score each group of examples is taken from.
RANKS = {"good": 0.9, "median": 0.5, "worst": 0.0}
RANK_WORDS = {
    "good": "Good: around the best tenth",
    "median": "Typical: around the median",
    "worst": "Worst: the lowest scores",
}


@dataclass(frozen=True)
class Picture:
    """Frames with predicted and true masks of one record, ready to draw.

    Attributes:
        caption: the expression, or the object's name.
        is_said: the caption is an expression.
        score, metric: as the benchmark measured it.
        frames: ``uint8 [H, W, 3]`` each; one for an image.
        prediction, truth: ``bool [H, W]`` per frame.
        uses: what the expression uses.
        click: pixel (x, y) that the model was given.
    """

    caption: str
    is_said: bool
    score: float
    metric: str
    frames: list[np.ndarray]
    prediction: list[np.ndarray]
    truth: list[np.ndarray]
    uses: tuple[str, ...] = ()
    click: tuple[int, int] | None = None

    @property
    def is_video(self) -> bool:
        return len(self.frames) > 1

    def draw(self) -> np.ndarray:
        """Image: prediction beside truth. Video: a strip of predictions above one of truths."""
        if not self.is_video:
            return visualise.compare(
                self.frames[0], self.prediction[0], self.truth[0], point=self.click
            )
        scale = visualise.legible_scale(self.frames[0], minimum=200)
        upper = visualise.film_strip(self.frames, self.prediction, scale=scale)
        lower = visualise.film_strip(self.frames, self.truth, colour=visualise.TRUTH, scale=scale)
        return np.vstack([upper, np.full((6, upper.shape[1], 3), 255, np.uint8), lower])


def score_of(record: Record) -> tuple[str, float] | None:
    """(metric, value) that a record is ranked by; None when it has none."""
    if "iou" in record:
        return "IoU", float(record["iou"])
    if "J" in record and "F" in record:
        return "J&F", (float(record["J"]) + float(record["F"])) / 2
    return None


def can_be_shown(record: Record) -> bool:
    """Whether a record has what a picture needs."""
    source = "image" in record or ("video" in record and bool(record.get("frames")))
    return source and bool(record.get("pred")) and bool(record.get("gt")) and bool(score_of(record))


def select(records: Sequence[Record], count: int) -> dict[str, list[Record]]:
    """``count`` records for each entry of ``RANKS``, from different images where there are enough.

    The choice follows from the ranking by score alone: nothing is picked by hand or at random.
    """
    ranked = sorted(
        (r for r in records if can_be_shown(r)),
        key=lambda r: (score_of(r) or ("", 0.0))[1],
    )
    taken: set[int] = set()
    sources: set[str] = set()
    chosen: dict[str, list[Record]] = {}
    for name, share in RANKS.items():
        centre = share * (len(ranked) - 1)
        order = sorted(range(len(ranked)), key=lambda i: abs(i - centre))
        free = [i for i in order if i not in taken]
        fresh: list[int] = []
        for i in free:
            if len(fresh) < count and _source(ranked[i]) not in sources:
                fresh.append(i)
                sources.add(_source(ranked[i]))
        picked = (fresh + [i for i in free if i not in fresh])[:count]
        taken.update(picked)
        chosen[name] = [ranked[i] for i in sorted(picked, reverse=share > 0)]
    return chosen


def load(record: Record, where: str) -> Picture:
    """Read a record's frames and masks.

    Raises:
        FileNotFoundError: an image or a frame is gone.
        ValueError: a broken mask, or not as many masks as frames.
    """
    scored = score_of(record)
    if scored is None:
        raise ValueError(f"{where}: the record has neither iou nor J and F")
    metric, score = scored
    frames, prediction, truth = (
        _load_image(record, where) if "image" in record else _load_video(record, where)
    )
    said = record.get("expression")
    return Picture(
        caption=str(said) if said else f"object {record.get('object', '')}".strip(),
        is_said=bool(said),
        score=score,
        metric=metric,
        frames=frames,
        prediction=prediction,
        truth=truth,
        uses=tuple(str(use) for use in record.get("uses") or ()),
        click=tuple(record["click"]) if record.get("click") else None,
    )


def _load_image(
    record: Record, where: str
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    path = record["image"]
    image = VideoFile(path)[record["frame"]] if "frame" in record else read_image(path)
    size = image.shape[:2]
    return [image], [_mask(record["pred"], size, where)], [_mask(record["gt"], size, where)]


def _load_video(
    record: Record, where: str
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    names = record["frames"]
    for key in ("pred", "gt"):
        if len(record[key]) != len(names):
            raise ValueError(
                f"{where}: {len(names)} frames but {len(record[key])} masks in {key!r}"
            )
    shown = visualise.evenly(len(names), FRAMES_SHOWN)
    frames = _frames(record["video"], [names[i] for i in shown])
    size = frames[0].shape[:2]
    prediction = [_mask(record["pred"][i], size, where) for i in shown]
    return frames, prediction, [_mask(record["gt"][i], size, where) for i in shown]


def _frames(video: str, frames: list[Any]) -> list[np.ndarray]:
    """Pictures of a record's frames, see above."""
    if isinstance(frames[0], int):
        return list(VideoFile(video).read(frames))
    if PurePath(frames[0]).is_absolute():
        return [read_image(path) for path in frames]
    folder = FrameFolder(video, names=[_stem(name) for name in frames])
    return [folder[i] for i in range(len(frames))]


def _mask(rle: Any, size: tuple[int, int], where: str) -> np.ndarray:
    if rle is None:
        return np.zeros(size, dtype=bool)
    return decode_rle(rle, where=where, size=size)


def _stem(name: str) -> str:
    """A frame's name without the suffix of its file, where it has one."""
    path = PurePath(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name


def _source(record: Record) -> str:
    return str(record.get("image") or record.get("video"))
