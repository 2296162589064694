"""Moments in more formats: Charades' first videos, as DiDeMo, HiREST and QueryD would tell them.

video_datas/didemo/{train,test}_data.json     segments of 5 s, four annotators
special_jsons/temporal/{DideMo,HiREST_grounding,QueryD}/time_token.json
clip_features/{didemo,hirest,queryd}/<video id>.pt     the features under other names
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from projects.toy_world.events import Event
from projects.toy_world.layouts.charades import TimedVideo, question
from projects.toy_world.layouts.files import Records, write_json
from projects.toy_world.world import World

TRAIN, TEST = 40, 20  # videos that are retold, where there are so many
SEGMENT, MOST_SEGMENTS = 5, 6
_FOLDERS = {"DideMo": "didemo", "HiREST_grounding": "hirest", "QueryD": "queryd"}
_ANNOTATORS = 4


def write(world: World, records: Mapping[str, Records], root: Path) -> None:
    train, test = records["charades"]["train"], records["charades"]["test"][:TEST]
    for number, name in enumerate(_FOLDERS):
        some = train[number * TRAIN : (number + 1) * TRAIN]
        _write_tokens(root, name, some)
    for split, videos in (("train", train[:TRAIN]), ("test", test)):
        _copy_features(root, "DideMo", videos)
        told = [_didemo(video, event) for video in videos for event in video.events]
        write_json(root / "video_datas" / "didemo" / f"{split}_data.json", told)


def segments_of(video: TimedVideo, event: Event) -> tuple[int, int, int]:
    """First and last segment that an event touches, and the segments of its video."""
    count = min(math.ceil(video.duration / SEGMENT), MOST_SEGMENTS)
    return int(event.start // SEGMENT), min(int(event.end // SEGMENT), count - 1), count


def video_id(name: str, video: TimedVideo) -> str:
    """What a dataset calls a video: by uploader and number, or eleven characters."""
    return f"1234567@N00_{video.name}_ab" if name == "DideMo" else f"{name[:4]}-_{video.name}"


def _write_tokens(root: Path, name: str, videos: Sequence[TimedVideo]) -> None:
    _copy_features(root, name, videos)
    told = []
    for video in videos:
        spans = [_span(name, video, event) for event in video.events]
        pairs = [
            question(event.sentence, *span) for event, span in zip(video.events, spans, strict=True)
        ]
        told.append({"video": f"{name}/videos/{video_id(name, video)}.mp4", "QA": pairs})
    write_json(root / "special_jsons" / "temporal" / name / "time_token.json", told)


def _span(name: str, video: TimedVideo, event: Event) -> tuple[float, float]:
    """Seconds; DiDeMo knows whole segments only."""
    if name != "DideMo":
        return event.start, event.end
    first, last, _ = segments_of(video, event)
    return float(first * SEGMENT), min(float((last + 1) * SEGMENT), video.duration)


def _didemo(video: TimedVideo, event: Event) -> dict[str, Any]:
    """Three annotators choose what the event touches, one a segment more, where there is one."""
    first, last, count = segments_of(video, event)
    times = [[first, last]] * (_ANNOTATORS - 1) + [[first, min(last + 1, count - 1)]]
    return {
        "annotation_id": int(video.name[1:], 16),
        "video": f"{video_id('DideMo', video)}.mov",
        "description": event.sentence,
        "times": times,
        "num_segments": count,
    }


def _copy_features(root: Path, name: str, videos: Sequence[TimedVideo]) -> None:
    folder = root / "clip_features" / _FOLDERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    for video in videos:
        source = root / "clip_features" / "charades" / f"{video.name}.pt"
        shutil.copyfile(source, folder / f"{video_id(name, video)}.pt")
