"""A query about the time of something in a video: its row, its checks, and its features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from projects.common.packed import Packed
from projects.llava_sam2.datasets.feature_files import (
    check_rate,
    check_width,
    count_frames,
    load_features,
    read_note,
)
from projects.llava_sam2.datasets.image_files import FolderFiles
from projects.llava_sam2.datasets.records import RowErrors
from projects.llava_sam2.datasets.segments import Segments

TOLERANCE = 2.0  # seconds by which the features of a video may end before or behind its annotation


@dataclass(frozen=True)
class TemporalRow:
    """A query and when it is true of a video.

    Attributes:
        video: id of the video.
        key: identifies the query in its dataset: "<video>/<number>".
        features: the video's feature file.
        start, end: seconds.
        duration: of the video in seconds, where the annotation says it.
        segments: what each annotator chose, where the file says so (DiDeMo).
    """

    video: str
    key: str
    features: Path
    query: str
    start: float
    end: float
    duration: float | None
    segments: Segments | None = None


def read_features(row: TemporalRow, *, fps: float, tolerance: float = TOLERANCE) -> Tensor:
    """The features of a row's video, float32 ``[frames, width]``. Nothing in the file is executed.

    Of a video of which only the beginning was annotated, the features of that part.

    Args:
        fps: frames a second that the features were made at.
        tolerance: seconds by which their number may disagree with the annotation's duration.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    path = row.features
    features = load_features(path)
    check_rate(path.parent, fps)
    check_width(path, features.shape[1])
    if row.segments is not None:
        features = features[: round(row.segments.duration * fps)]
        tolerance = row.segments.seconds  # the last segment of a video may be a short one
    if not torch.isfinite(features).all():
        raise ValueError(f"{path}: values that are not finite; make it anew")
    seconds = len(features) / fps
    expected = row.end if row.duration is None else row.duration
    if row.duration is None:
        fits = seconds > row.start and seconds >= expected - tolerance
    else:
        fits = abs(seconds - expected) <= tolerance
    if not fits:
        raise ValueError(
            f"{path}: {len(features)} frames at {fps} a second are {seconds:.1f} s, the annotation "
            f"of {row.key} says {expected:.1f} s; another cut of the video, or another rate (fps)"
        )
    return features.float()


def row_seconds(row: TemporalRow, fps: float) -> float:
    """Length of a row's video, or of what was annotated of it: as the annotation says, else as
    many seconds as it has features, of which none is read."""
    if row.duration is not None:
        return row.duration
    check_rate(row.features.parent, fps)
    seconds = count_frames(row.features.parent, row.video) / fps
    return seconds if row.segments is None else min(seconds, row.segments.duration)


class RowCollector:
    """Checks queries and numbers them by video.

    Args:
        slack: seconds by which an end may lie behind the video's.
        tolerance: seconds by which features may disagree with an annotated duration.
    """

    def __init__(
        self,
        file: Path,
        feature_root: Path,
        fps: float | None,
        slack: float,
        on_bad_row: str,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.errors = RowErrors(file, on_bad_row)
        self.rows: Packed[TemporalRow] = Packed()
        self.feature_root = feature_root
        self._files = FolderFiles(feature_root)
        self.slack = slack
        self.tolerance = tolerance
        self.fps = _known_rate(feature_root, fps)
        self._counts: dict[str, int] = {}
        self._frames: dict[str, int] = {}

    def add(
        self,
        where: str,
        video: str,
        query: str,
        times: Sequence[str],
        duration: float | None,
        segments: Segments | None = None,
    ) -> None:
        """A row, or an error. Bad rows are numbered as well: a skipped one renames no other."""
        number = self._counts.get(video, 0)
        self._counts[video] = number + 1
        features, missing = self._files.find(f"{video}.pt")
        try:
            if PurePosixPath(video).name != video:
                raise ValueError(f"{video!r} is no name of a video")
            start, end = (parse_seconds(text) for text in times)
            if start > end:
                raise ValueError(f"it starts at {start} s, after its end at {end} s")
            if not query.strip():
                raise ValueError("empty query")
            if missing is not None:
                raise ValueError(f"no features {features}")
            if duration is not None:
                end = self._within(start, end, duration)
            if self.fps is not None:
                self._check_features(video, start, end, duration)
        except ValueError as error:
            self.errors.add(where, str(error))
            return
        key = f"{video}/{number}"
        self.rows.append(
            TemporalRow(video, key, features, query.strip(), start, end, duration, segments)
        )

    def finish(self) -> Sequence[TemporalRow]:
        self.errors.finish(self.rows)
        return self.rows

    def _within(self, start: float, end: float, duration: float) -> float:
        """The end, at most the duration."""
        if start > duration or end > duration + self.slack:
            raise ValueError(f"{start} to {end} s lies outside of the video's {duration} s")
        return min(end, duration)

    def _check_features(self, video: str, start: float, end: float, duration: float | None) -> None:
        """Where the rate is known, the number of features says how long a video is."""
        if video not in self._frames:  # has several queries
            self._frames[video] = count_frames(self.feature_root, video)
        seconds = self._frames[video] / self.fps
        if duration is not None and abs(seconds - duration) > self.tolerance:
            raise ValueError(
                f"its features cover {seconds:.1f} s, its annotation says {duration} s; another "
                "cut of the video, or another rate (fps)"
            )
        if duration is None and (start >= seconds or end > seconds + self.slack):
            raise ValueError(
                f"{start} to {end} s lies outside of the {seconds:.1f} s that its features cover"
            )


def _known_rate(feature_root: Path, fps: float | None) -> float | None:
    """The rate that the folder tells, which must be ``fps`` where that is given."""
    if fps is not None:
        check_rate(feature_root, fps)
        return fps
    note = read_note(feature_root)
    return None if note is None else note.fps


def parse_seconds(text: str) -> float:
    """A time in seconds; raises ValueError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is no time in seconds")
    return value
