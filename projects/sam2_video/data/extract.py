"""Video files to folders of frames: every video whole or not at all, and never twice.

VIDEOS/a.mp4 ─► OUT/.tmp_a/00000.jpg, 00004.jpg, ..., extraction.json ─ rename ─► OUT/a/
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from projects.common.video import VideoFile, decode_frames
from projects.sam2_video.data.sources import VIDEO_SUFFIXES

RECORD = "extraction.json"


@dataclass(frozen=True)
class Extraction:
    """Which frames are taken, and how they are written.

    Args:
        every: take frames 0, n, 2n, ...
        fps: take that many frames a second instead, the nearest ones; None: by ``every``.
        renumber: name frames 0, 1, 2, ... rather than by their number in the video.
        suffix: ``.jpg`` or ``.png``.
        quality: of JPEG, 1 to 100.
    """

    every: int = 1
    fps: float | None = None
    renumber: bool = False
    suffix: str = ".jpg"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.every < 1 or (self.fps is not None and (self.fps <= 0 or self.every != 1)):
            raise ValueError("give every >= 1 or fps > 0, one of them")
        if self.suffix not in (".jpg", ".png") or not 1 <= self.quality <= 100:
            raise ValueError(
                f"frames are .jpg or .png of quality 1..100, got {self.suffix}, {self.quality}"
            )

    def wants(self, index: int, video_fps: float) -> bool:
        if self.fps is None:
            return index % self.every == 0
        if video_fps <= self.fps:
            return True
        # the frames nearest to the times 0, 1 / fps, 2 / fps, ...
        tick = round(index * self.fps / video_fps)
        return round(tick * video_fps / self.fps) == index


def extract_video(video: Path, out: Path, extraction: Extraction) -> int:
    """Write the frames of a video to ``out/<its name>/``; returns how many lie there now.

    A folder that this function finished earlier, with the same settings and from a file of the same
    size, is left alone.

    Raises:
        ValueError: the video is not whole, gives no frame, or ``out`` holds a folder of this name
            that was made otherwise.
    """
    target = out / video.stem
    settings = {**asdict(extraction), "video": video.name, "bytes": video.stat().st_size}
    if target.exists():
        return _finished_frames(target, settings)
    partial = out / f".tmp_{video.stem}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        count = _write_frames(video, partial, extraction)
        # a video slower than the rate that is asked for gives all its frames, at its own rate
        found = {"frames": count, "video_fps": VideoFile(video).fps}
        (partial / RECORD).write_text(json.dumps(settings | found, indent=1) + "\n")
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return count


def find_videos(path: Path) -> list[Path]:
    """A video file itself, or all video files below a folder.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no videos, or two of one name.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: neither a video nor a folder of videos")
    videos = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise ValueError(f"{path}: no videos ({', '.join(VIDEO_SUFFIXES)}) in this folder")
    names = [video.stem for video in videos]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(
            f"{path}: several videos of one name, their frames would mix: {twice[:10]}"
        )
    return videos


def _write_frames(video: Path, folder: Path, extraction: Extraction) -> int:
    save = _writer(extraction)
    count = 0
    for index, frame in decode_frames(video, extraction.wants):
        number = count if extraction.renumber else index
        save(Image.fromarray(frame), folder / f"{number:05d}{extraction.suffix}")
        count += 1
    if not count:
        raise ValueError(f"{video}: no frame decodes; get the file again")
    written = sum(path.suffix == extraction.suffix for path in folder.iterdir())
    if written != count:
        raise ValueError(
            f"{video}: {count} frames decoded, but {written} files written; disk full?"
        )
    return count


def _writer(extraction: Extraction) -> Callable[[Image.Image, Path], None]:
    if extraction.suffix == ".jpg":
        return lambda image, path: image.save(path, format="JPEG", quality=extraction.quality)
    return lambda image, path: image.save(path, format="PNG")


def _finished_frames(target: Path, settings: dict) -> int:
    record_file = target / RECORD
    if not record_file.is_file():
        raise ValueError(f"{target} exists but was not made by this tool; choose another folder")
    record = json.loads(record_file.read_text(encoding="utf-8"))
    found = sum(path.suffix == record["suffix"] for path in target.iterdir())
    different = [key for key, value in settings.items() if record.get(key) != value]
    if different:
        raise ValueError(
            f"{target} was made with another {', '.join(different)}; choose another folder or "
            "remove it"
        )
    if found != record["frames"]:
        raise ValueError(
            f"{target}: {found} of {record['frames']} frames are left; remove the folder and run "
            "again"
        )
    return found
