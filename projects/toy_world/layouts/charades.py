"""Charades-STA: a text line a query, durations in Charades' table, a feature file a video.

``charades_sta_<split>.txt`` has lines ``VIDEO start end##sentence.`` in seconds,
``Charades_v1_<split>.csv`` the length of each video, ``clip_features/charades/<VIDEO>.pt`` one
tensor [frames, width]. The queries of train also stand in
``special_jsons/temporal/Charades/time_token.json``, as questions that are answered in time tokens.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from projects.toy_world.events import Event, directions, draw_video
from projects.toy_world.layouts.files import Records, write_json, write_lines
from projects.toy_world.world import World

SPLITS: tuple[str, ...] = ("train", "test")
_COLUMNS = """id subject scene quality relevance verified script objects descriptions actions
length""".split()
_DIGITS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()


@dataclass(frozen=True)
class TimedVideo:
    """A video without its features, which are on disk."""

    name: str
    duration: float
    events: tuple[Event, ...]


def write_item(world: World, split: str, index: int, root: Path) -> TimedVideo:
    rng = world.generator("charades", split, index)
    video = draw_video(rng, directions(world.seed))
    name = f"{'TE'[SPLITS.index(split)]}{index:04X}"  # five characters, as in Charades
    path = root / "clip_features" / "charades" / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(video.features), path)
    return TimedVideo(name, video.duration, video.events)


def write_index(world: World, records: Records, root: Path) -> dict[str, Any]:
    folder = root / "video_datas" / "charades"
    labels: dict[str, Any] = {}
    for split in SPLITS:
        videos = records[split]
        write_lines(folder / f"charades_sta_{split}.txt", map(_line, *_pairs(videos)))
        (folder / f"Charades_v1_{split}.csv").write_text(_table(videos), encoding="utf-8")
        labels |= {video.name: _labels(video) for video in videos}
    jsons = root / "special_jsons" / "temporal" / "Charades"
    write_json(jsons / "time_token.json", [_questions(video) for video in records["train"]])
    return {"charades": labels}


def _pairs(videos: Sequence[TimedVideo]) -> tuple[list[TimedVideo], list[Event]]:
    """Each event beside its video."""
    pairs = [(video, event) for video in videos for event in video.events]
    return [video for video, _ in pairs], [event for _, event in pairs]


def _line(video: TimedVideo, event: Event) -> str:
    return f"{video.name} {event.start:.1f} {event.end:.1f}##{event.sentence}"


def _table(videos: Sequence[TimedVideo]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows({"id": video.name, "length": f"{video.duration:.2f}"} for video in videos)
    return text.getvalue()


def _labels(video: TimedVideo) -> dict[str, Any]:
    """Which queries depend on what is asked for: those about one of two events."""
    needs = ["event"] if len(video.events) > 1 else []
    return {str(number): {"uses": [], "needs": needs} for number in range(len(video.events))}


def _questions(video: TimedVideo) -> dict[str, Any]:
    return {
        "video": f"Charades/videos/{video.name}.mp4",
        "QA": [question(event.sentence, event.start, event.end) for event in video.events],
    }


def question(sentence: str, start: float, end: float) -> dict[str, str]:
    """A question and its answer in time tokens."""
    return {
        "q": f"When does '{sentence}' happen in the video?",
        "a": f"{_time_tokens(start)} - {_time_tokens(end)} seconds.",
    }


def _time_tokens(seconds: float) -> str:
    """12.3 as <TIME_ZERO><TIME_ZERO><TIME_ONE><TIME_TWO><TIME_DOT><TIME_THREE>."""
    return "".join(
        "<TIME_DOT>" if character == "." else f"<TIME_{_DIGITS[int(character)]}>"
        for character in f"{seconds:06.1f}"
    )
