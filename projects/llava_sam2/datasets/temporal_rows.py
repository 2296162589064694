"""Time spans that are asked for in words: annotation files to rows, and the features of a video.

    charades_sta_*.txt ─┐
    didemo *_data.json ─┼─► TemporalRow: query, start, end, feature file
    time_token.json    ─┘   (Charades, DiDeMo, HiREST, QueryD)

A row is one query about one video. Its features lie in ``<feature_root>/<video id>.pt``, see
``feature_files``. Which dataset uses which reader is a table in the configs.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from projects.llava_sam2.datasets.records import list_of_records
from projects.llava_sam2.datasets.segments import Segments
from projects.llava_sam2.datasets.temporal_row import (
    TOLERANCE,
    RowCollector,
    TemporalRow,
    parse_seconds,
)

_DIGITS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
_TIME = r"((?:<TIME_[A-Z]+>)+)"
_INTERVAL = re.compile(rf"{_TIME}\s*-\s*{_TIME}")
_QUOTED = re.compile(r"'(.+)'", re.DOTALL)
_SPELT = re.compile(r"\d{4}\.\d")  # four digits, the dot, one digit


def charades_rows(
    *,
    file: str | Path,
    durations: str | Path | None,
    feature_root: str | Path,
    fps: float | None = None,
    slack: float = 1.0,
    tolerance: float = TOLERANCE,
    on_bad_row: str = "error",
) -> Sequence[TemporalRow]:
    """Rows of Charades-STA: text lines ``VIDEO start end##sentence.``, times in seconds.

    Args:
        file: ``charades_sta_train.txt`` or ``charades_sta_test.txt``.
        durations: Charades' table ``Charades_v1_*.csv`` with the columns ``id`` and ``length``;
            None takes the number of features for the length.
        feature_root: folder of the feature files.
        fps: frames a second of the features: a query that lies behind them, or a video of another
            length than its annotation says, is then a bad record. Where the folder has a note on
            how it was made, the rate stands there; without either, a sample finds out when it is
            read.
        slack: an end that lies up to so many seconds behind the end of the video is moved there;
            annotators overshoot a little.
        tolerance: seconds by which features may disagree with the table of lengths.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; check the data root")
    lengths = None if durations is None else _read_lengths(Path(durations))
    collector = RowCollector(file, Path(feature_root), fps, slack, on_bad_row, tolerance)
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        head, mark, query = line.partition("##")
        parts = head.split()
        if not mark or len(parts) != 3:
            collector.errors.add(where, f"expected 'VIDEO start end##sentence.', found {line!r}")
        elif lengths is not None and parts[0] not in lengths:
            collector.errors.add(where, f"video {parts[0]} is not in {durations}")
        else:
            duration = None if lengths is None else lengths[parts[0]]
            collector.add(where, parts[0], query, parts[1:], duration)
    return collector.finish()


def didemo_rows(
    *,
    file: str | Path,
    feature_root: str | Path,
    fps: float | None = None,
    segment_seconds: float = 5.0,
    on_bad_row: str = "error",
) -> Sequence[TemporalRow]:
    """Rows of DiDeMo: ``[{video, description, times: [[first, last], ...], num_segments}]``.

    A video is cut into segments of 5 s, ``num_segments`` of them (6: only the first 30 s of a
    longer video were shown to annotators). ``times`` has a pair for each annotator: first and last
    segment, both included, so ``[0, 0]`` is 0 to 5 s. The row's interval is the choice that agrees
    best with all of them; what each chose stays in ``row.segments``.

    Args:
        file: ``train_data.json``, ``val_data.json`` or ``test_data.json``.
        feature_root, fps, on_bad_row: as for :func:`charades_rows`. Feature files are named by
            ``video`` without its suffix.
        segment_seconds: length of a segment.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file = Path(file)
    collector = RowCollector(file, Path(feature_root), fps, segment_seconds, on_bad_row)
    for number, record in enumerate(list_of_records(file, what="videos")):
        where = f"record {number}"
        try:
            video, query = _texts(record, "video", "description")
            segments = Segments.read(
                record.get("times"), record.get("num_segments"), segment_seconds
            )
        except ValueError as error:
            collector.errors.add(where, str(error))
            continue
        video = PurePosixPath(video).stem
        times = [str(time) for time in segments.best()]
        collector.add(f"{where} ({video})", video, query, times, None, segments)
    return collector.finish()


def time_token_rows(
    *,
    file: str | Path,
    feature_root: str | Path,
    fps: float | None = None,
    on_bad_row: str = "error",
) -> Sequence[TemporalRow]:
    """Rows of a ``time_token.json``: ``[{"video": path, "QA": [{"q": ..., "a": ...}]}]``.

    The query is what stands between the first and the last single quote of ``q``; ``a`` holds one
    interval ``<TIME_..>... - <TIME_..>...`` in seconds: four digit tokens, the dot,
    one digit token.

    Args:
        file, feature_root, fps, on_bad_row: as for :func:`charades_rows`. Feature files are named
            by the last part of ``video`` without its suffix.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file = Path(file)
    collector = RowCollector(file, Path(feature_root), fps, TOLERANCE, on_bad_row)
    for number, record in enumerate(list_of_records(file, what="videos")):
        try:
            (path,) = _texts(record, "video")
            pairs = record.get("QA")
            if not isinstance(pairs, list):
                raise ValueError("it needs a list 'QA'")
        except ValueError as error:
            collector.errors.add(f"record {number}", str(error))
            continue
        video = PurePosixPath(path).stem
        for turn, pair in enumerate(pairs):
            where = f"record {number} ({video}) QA {turn}"
            try:
                query, times = _question(pair)
            except ValueError as error:
                collector.errors.add(where, str(error))
            else:
                collector.add(where, video, query, times, None)
    return collector.finish()


def _read_lengths(path: Path) -> dict[str, float]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it holds the lengths of the videos")
    with path.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines)
        if not {"id", "length"} <= set(table.fieldnames or ()):
            raise ValueError(f"{path}: expected columns 'id' and 'length', has {table.fieldnames}")
        try:
            return {row["id"]: parse_seconds(row["length"]) for row in table}
        except ValueError as error:
            raise ValueError(f"{path} line {table.line_num}: length: {error}") from error


def _texts(record: Any, *keys: str) -> list[str]:
    """Values of a record that must be text."""
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in keys):
        raise ValueError(f"it needs {' and '.join(map(repr, keys))}, as text")
    return [record[key] for key in keys]


def _question(pair: Any) -> tuple[str, list[str]]:
    """Query and the two times of a question with its answer."""
    question, answer = _texts(pair, "q", "a")
    quoted = _QUOTED.search(question)
    if quoted is None:
        raise ValueError(f"no query between single quotes in {question!r}")
    intervals = _INTERVAL.findall(answer)
    if len(intervals) != 1:
        raise ValueError(f"expected one interval, found {len(intervals)} in {answer!r}")
    return quoted[1], [_spell(time) for time in intervals[0]]


def _spell(tokens: str) -> str:
    """``<TIME_ZERO><TIME_ZERO><TIME_ZERO><TIME_ONE><TIME_DOT><TIME_THREE>`` as ``0001.3``."""
    names = re.findall(r"<TIME_([A-Z]+)>", tokens)
    known = {"DOT": "."} | {name: str(digit) for digit, name in enumerate(_DIGITS)}
    if any(name not in known for name in names):
        raise ValueError(f"unknown time tokens in {tokens!r}")
    text = "".join(known[name] for name in names)
    if not _SPELT.fullmatch(text):
        raise ValueError(f"{text!r} is no time of four digits, a dot and a digit")
    return text
