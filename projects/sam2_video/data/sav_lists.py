"""Lists that SeC's recipes want and SA-V does not ship: objects, and videos of many scenes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from projects.common.scenes import THRESHOLD, count_scene_changes
from projects.common.video import decode_frames
from projects.common.whole_file import whole_file
from projects.sam2_video.data.sav import SavSource

OBJECTS_FILE = "sav_video_obj_ids.txt"
_KEY = "settings"


@dataclass(frozen=True)
class VideoFacts:
    """What the lists are made of."""

    video: str
    objects: list[int]  # indices within the masklet
    scene_changes: int | None  # None where frames were not looked at


@dataclass(frozen=True)
class FactsSettings:
    """What the facts depend on; facts of other settings are not reused.

    Args:
        min_frames: annotated frames that must show an object.
        step: every n-th frame is compared with the one before; 4 is SA-V's annotation rate.
        threshold: of the colour distance.
        scenes: whether frames are looked at.
        kind, ann_every: of the annotations, see ``SavSource``.
    """

    min_frames: int = 1
    step: int = 4
    threshold: float = THRESHOLD
    scenes: bool = True
    kind: str = "manual"
    ann_every: int = 4

    def __post_init__(self) -> None:
        if min(self.min_frames, self.step, self.ann_every) < 1 or not 0 <= self.threshold <= 1:
            raise ValueError(
                "frames and steps are at least 1 and the threshold is in 0..1, got "
                f"min_frames {self.min_frames}, step {self.step}, ann_every {self.ann_every}, "
                f"threshold {self.threshold}"
            )


def video_facts(index: int, *, source: SavSource, settings: FactsSettings) -> VideoFacts:
    """Read one video's annotation, and its frames where scenes are counted."""
    video = source[index]
    shown: dict[int, int] = {}
    for frame in range(video.num_frames):
        for key in video.visible_objects(frame):
            shown[key] = shown.get(key, 0) + 1
    changes = None
    if settings.scenes:
        frames = _frames(source, index, settings.step)
        changes = count_scene_changes(frames, settings.threshold)
    objects = sorted(key for key, count in shown.items() if count >= settings.min_frames)
    return VideoFacts(video.name, objects, changes)


def _frames(source: SavSource, index: int, step: int) -> Iterator[np.ndarray]:
    """Frames whose number in the video is a multiple of ``step``."""
    path = source.frame_path(index)
    if path.is_file():
        for _, frame in decode_frames(path, lambda number, fps: number % step == 0):
            yield frame
        return
    folder = source[index].folder
    for position, name in enumerate(folder.names):
        if int(name) % step == 0:
            yield folder[position]


class FactsFile:
    """Facts so far, a line per video, so that an interrupted run goes on.

    Raises:
        ValueError: the file was made with other settings.
    """

    def __init__(self, path: Path, settings: FactsSettings) -> None:
        self.path = path
        self.facts: dict[str, VideoFacts] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._read(settings)
        else:
            path.write_text(json.dumps({_KEY: asdict(settings)}) + "\n", encoding="utf-8")

    def add(self, facts: VideoFacts) -> None:
        self.facts[facts.video] = facts
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(facts)) + "\n")

    def _read(self, settings: FactsSettings) -> None:
        whole = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        lines = [line for line in whole if line.endswith("\n")]  # a torn last line is lost work
        if not lines or json.loads(lines[0]).get(_KEY) != asdict(settings):
            raise ValueError(f"{self.path} was made with other settings; remove it to start anew")
        if len(lines) < len(whole):
            _write_whole(self.path, "".join(lines))
        for line in lines[1:]:
            facts = VideoFacts(**json.loads(line))
            self.facts[facts.video] = facts


def write_objects(path: Path, facts: list[VideoFacts]) -> int:
    """``video object`` a line; returns the number of lines."""
    lines = [f"{fact.video} {key}" for fact in facts for key in fact.objects]
    _write_whole(path, "".join(f"{line}\n" for line in lines))
    return len(lines)


def write_scenes(path: Path, facts: list[VideoFacts], top: int) -> int:
    """The ``top`` videos with most scene changes, most first; those without any are left out."""
    counted = [(fact.scene_changes, fact.video) for fact in facts if fact.scene_changes]
    chosen = sorted(counted, key=lambda entry: (-entry[0], entry[1]))[:top]
    _write_whole(path, "".join(f"{video}\n" for _, video in chosen))
    return len(chosen)


def _write_whole(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
