"""Time spans that are asked for in words: annotation files to rows, and the features of a video.

A row is one query about one video. Its features lie in ``<feature_root>/<video id>.pt``: one tensor
[frames, width], a vector for each frame at a fixed rate, written by ``torch.save``.
"""

from __future__ import annotations

import csv
import math
import pickle
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from projects.llava_sam2.datasets.rows import RowErrors, load_json

_DIGITS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
_TIME = r"((?:<TIME_[A-Z]+>)+)"
_INTERVAL = re.compile(rf"{_TIME}\s*-\s*{_TIME}")
_QUOTED = re.compile(r"'(.+)'", re.DOTALL)


@dataclass(frozen=True)
class TemporalRow:
    """A query and when it is true of a video.

    Attributes:
        video: id of the video.
        key: identifies the query in its dataset: "<video>/<number>".
        features: the video's feature file.
        start, end: seconds.
        duration: of the video in seconds, where the annotation says it.
    """

    video: str
    key: str
    features: Path
    query: str
    start: float
    end: float
    duration: float | None


def charades_rows(
    *,
    file: str | Path,
    durations: str | Path,
    feature_root: str | Path,
    slack: float = 1.0,
    on_bad_row: str = "error",
) -> list[TemporalRow]:
    """Rows of Charades-STA: text lines ``VIDEO start end##sentence.``, times in seconds.

    Args:
        file: ``charades_sta_train.txt`` or ``charades_sta_test.txt``.
        durations: Charades' table ``Charades_v1_*.csv`` with the columns ``id`` and ``length``.
        feature_root: folder of the feature files.
        slack: an end that lies up to so many seconds behind the end of the video is moved there;
            annotators overshoot a little.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; check the data root")
    lengths = _read_lengths(Path(durations))
    collector = _Collector(file, Path(feature_root), slack, on_bad_row)
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        head, mark, query = line.partition("##")
        parts = head.split()
        if not mark or len(parts) != 3:
            collector.errors.add(where, f"expected 'VIDEO start end##sentence.', found {line!r}")
        elif parts[0] not in lengths:
            collector.errors.add(where, f"video {parts[0]} is not in {durations}")
        else:
            collector.add(where, parts[0], query, parts[1:], lengths[parts[0]])
    return collector.finish()


def time_token_rows(
    *, file: str | Path, feature_root: str | Path, on_bad_row: str = "error"
) -> list[TemporalRow]:
    """Rows of a ``time_token.json``: ``[{"video": path, "QA": [{"q": ..., "a": ...}]}]``.

    The query is what stands between the first and the last single quote of ``q``; ``a`` holds one
    interval ``<TIME_..>... - <TIME_..>...`` in seconds, each digit and the dot a token.

    Args:
        file, feature_root, on_bad_row: as for :func:`charades_rows`. Feature files are named by the
            last part of ``video`` without its suffix.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file = Path(file)
    records = load_json(file)
    if not isinstance(records, list):
        raise ValueError(f"{file}: expected a list of videos, found {type(records).__name__}")
    collector = _Collector(file, Path(feature_root), 0.0, on_bad_row)
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not {"video", "QA"} <= record.keys():
            collector.errors.add(f"record {number}", "it needs 'video' and 'QA'")
            continue
        video = PurePosixPath(record["video"]).stem
        for turn, pair in enumerate(record["QA"]):
            where = f"record {number} ({video}) QA {turn}"
            try:
                query, times = _question(pair)
            except ValueError as error:
                collector.errors.add(where, str(error))
            else:
                collector.add(where, video, query, times, None)
    return collector.finish()


def read_features(row: TemporalRow, *, fps: float, tolerance: float) -> Tensor:
    """The features of a row's video, float32 ``[frames, width]``. Nothing in the file is executed.

    Args:
        fps: frames a second that the features were made at.
        tolerance: seconds by which their number may disagree with the annotation's duration.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    path = row.features
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no features of video {row.video}")
    try:
        features = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: not a file of one tensor ({error}); make it anew") from error
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"{path}: expected one float tensor [frames, width], found {found}")
    if not len(features) or not torch.isfinite(features).all():
        raise ValueError(f"{path}: no frames, or values that are not finite; make it anew")
    seconds = len(features) / fps
    expected = max(row.end, row.start) if row.duration is None else row.duration
    too_long = row.duration is not None and seconds > expected + tolerance
    if too_long or seconds < expected - tolerance:
        raise ValueError(
            f"{path}: {len(features)} frames at {fps} a second are {seconds:.1f} s, the annotation "
            f"of {row.key} says {expected:.1f} s; another cut of the video, or another rate (fps)"
        )
    return features.float()


class _Collector:
    """Checks queries and numbers them by video."""

    def __init__(self, file: Path, feature_root: Path, slack: float, on_bad_row: str) -> None:
        self.errors = RowErrors(file, on_bad_row)
        self.rows: list[TemporalRow] = []
        self.feature_root = feature_root
        self.slack = slack
        self._counts: dict[str, int] = {}

    def add(
        self, where: str, video: str, query: str, times: list[str], duration: float | None
    ) -> None:
        """A row, or an error. Bad rows are numbered as well: a skipped one renames no other."""
        number = self._counts.get(video, 0)
        self._counts[video] = number + 1
        features = self.feature_root / f"{video}.pt"
        try:
            start, end = (_seconds(text) for text in times)
            end = self._within(start, end, duration)
            if not query.strip():
                raise ValueError("empty query")
            if not features.is_file():
                raise ValueError(f"no features {features}")
        except ValueError as error:
            self.errors.add(where, str(error))
            return
        key = f"{video}/{number}"
        self.rows.append(TemporalRow(video, key, features, query.strip(), start, end, duration))

    def finish(self) -> list[TemporalRow]:
        self.errors.finish(self.rows)
        return self.rows

    def _within(self, start: float, end: float, duration: float | None) -> float:
        """The end, at most the duration."""
        if start > end:
            raise ValueError(f"it starts at {start} s, after its end at {end} s")
        if duration is None:
            return end
        if start > duration or end > duration + self.slack:
            raise ValueError(f"{start} to {end} s lies outside of the video's {duration} s")
        return min(end, duration)


def _read_lengths(path: Path) -> dict[str, float]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it holds the lengths of the videos")
    with path.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines)
        if not {"id", "length"} <= set(table.fieldnames or ()):
            raise ValueError(f"{path}: expected columns 'id' and 'length', has {table.fieldnames}")
        try:
            return {row["id"]: _seconds(row["length"]) for row in table}
        except ValueError as error:
            raise ValueError(f"{path} line {table.line_num}: length: {error}") from error


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is no time in seconds")
    return value


def _question(pair: Any) -> tuple[str, list[str]]:
    """Query and the two times of a question with its answer."""
    if not isinstance(pair, dict) or not {"q", "a"} <= pair.keys():
        raise ValueError("it needs 'q' and 'a'")
    quoted = _QUOTED.search(pair["q"])
    if quoted is None:
        raise ValueError(f"no query between single quotes in {pair['q']!r}")
    intervals = _INTERVAL.findall(pair["a"])
    if len(intervals) != 1:
        raise ValueError(f"expected one interval, found {len(intervals)} in {pair['a']!r}")
    return quoted[1], [_spell(time) for time in intervals[0]]


def _spell(tokens: str) -> str:
    """``<TIME_ONE><TIME_DOT><TIME_THREE>`` as ``1.3``."""
    names = re.findall(r"<TIME_([A-Z]+)>", tokens)
    known = {"DOT": "."} | {name: str(digit) for digit, name in enumerate(_DIGITS)}
    if any(name not in known for name in names):
        raise ValueError(f"unknown time tokens in {tokens!r}")
    return "".join(known[name] for name in names)
