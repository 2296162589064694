"""Folders of frames, as ``tools/extract_frames.py --fps`` writes them, read at a rate.

A frame of the result belongs to second i / fps, whatever the video's own rate is.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from projects.common.video import FrameFolder
from projects.sam2_video.data.extract import RECORD


def find_folders(root: Path) -> list[Path]:
    """The folders of frames below a folder, one a video.

    Raises:
        FileNotFoundError: no such folder, or none in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise FileNotFoundError(
            f"{root}: no folder of frames in it; make them with tools/extract_frames.py --fps"
        )
    return folders


def frame_files(folder: Path, fps: float) -> list[Path]:
    """The frames at the times 0, 1 / fps, 2 / fps, ...; a slow video repeats some.

    A folder that says how it was made (``extraction.json``) must have been made at a multiple of
    this rate, and be whole. Of another one it is taken for granted that it has this rate.

    Raises:
        ValueError: naming the folder.
    """
    files = _listed(folder)
    made = folder / RECORD
    if not made.is_file():
        return list(files)
    try:
        record = json.loads(made.read_text(encoding="utf-8"))
        count, rate, video_fps = record["frames"], record["fps"], record.get("video_fps")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{made}: not a record of an extraction ({error!r})") from error
    if count != len(files):
        raise ValueError(f"{folder}: {len(files)} of {count} frames are left; extract them again")
    if rate is None:
        raise ValueError(
            f"{folder}: every {record.get('every')}th frame, at a rate that differs from video to "
            f"video; extract them again with --fps {fps:g}"
        )
    if video_fps is not None and video_fps < rate:
        number = max(round(count * fps / video_fps), 1)
        return [files[min(round(i * video_fps / fps), count - 1)] for i in range(number)]
    step = round(rate / fps)
    if step < 1 or abs(rate / fps - step) > 1e-6:
        raise ValueError(
            f"{folder}: frames at {rate:g} a second cannot be read at {fps:g}; extract them again "
            f"with --fps {fps:g}"
        )
    return list(files[::step])


@functools.lru_cache(maxsize=2)
def _listed(folder: Path) -> tuple[Path, ...]:
    return tuple(FrameFolder(folder).files)
