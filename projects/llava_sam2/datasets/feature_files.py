"""Feature files: one tensor a video, and beside them a note on how they were made.

    <root>/<video>.pt      one float tensor [frames, width]; row i is the frame at i / fps seconds
    <root>/features.json   {"fps", "encoder", "width", "frames": {video: number}}

The note is written by the extraction of this project. Files that come without one can be read too;
their rate is then what the config says.
"""

from __future__ import annotations

import functools
import json
import pickle
import struct
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projects.common.whole_file import whole_file

NOTE = "features.json"


@dataclass(frozen=True)
class FeatureNote:
    """How the files of a folder were made.

    Attributes:
        fps: frames a second.
        encoder: what made the features, in words.
        width: of a feature.
        frames: of each video that is finished.
    """

    fps: float
    encoder: str
    width: int
    frames: dict[str, int] = field(default_factory=dict)

    def write(self, root: Path) -> None:
        """Write it beside the files, whole or not at all."""
        with whole_file(root / NOTE) as partial:
            partial.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def read_note(root: Path) -> FeatureNote | None:
    """The note of a folder, or None where there is none; read anew when the file changes.

    Raises:
        ValueError: naming the file, if it is not such a note.
    """
    path = root / NOTE
    try:
        changed = path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    return _read_note(path, changed)


@functools.lru_cache(maxsize=64)
def _read_note(path: Path, changed: int) -> FeatureNote:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fps, width, frames = content["fps"], content["width"], content["frames"]
        if not fps > 0 or not all(number > 0 for number in frames.values()):
            raise ValueError("rates and numbers of frames are positive")
        return FeatureNote(float(fps), str(content["encoder"]), int(width), frames)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a note on features ({error!r}); run tools/extract_clip_features.py again "
            "over its folder"
        ) from error


def check_rate(root: Path, fps: float) -> None:
    """Raise where the files of a folder say that they were made at another rate.

    Raises:
        ValueError: naming the folder and both rates.
    """
    note = read_note(root)
    if note is not None and note.fps != fps:
        raise ValueError(
            f"{root}: its features were made at {note.fps:g} frames a second, the config says "
            f"fps={fps:g}; set fps to {note.fps:g}, or extract them again at {fps:g} into another "
            "folder"
        )


def check_width(path: Path, width: int) -> None:
    """Raise where a file's features are not as wide as the note of its folder says.

    Raises:
        ValueError: naming the file and both widths.
    """
    note = read_note(path.parent)
    if note is not None and note.width != width:
        raise ValueError(
            f"{path}: features {width} wide, those of its folder are {note.width} ({NOTE}); it was "
            "made by another encoder: make it anew"
        )


def load_features(path: Path, *, mmap: bool = False) -> Tensor:
    """The tensor of a file, [frames, width]. Nothing in the file is executed.

    Args:
        mmap: leave the values on disk until they are used, for a look at the shape.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no features of video {path.stem}")
    try:
        features = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _BROKEN as error:
        raise ValueError(f"{path}: not a file of one tensor ({error}); make it anew") from error
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        raise ValueError(
            f"{path}: expected one float tensor [frames, width], found {_shown(features)}"
        )
    if not len(features):
        raise ValueError(f"{path}: no frames; make it anew")
    return features


# What torch's reader of plain data raises on files that are cut, or are something else.
_BROKEN = (
    pickle.UnpicklingError,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


def count_frames(root: Path, video: str) -> int:
    """Number of a video's features, from the note or from the head of its file."""
    note = read_note(root)
    if note is not None and video in note.frames:
        return note.frames[video]
    path = root / f"{video}.pt"
    return len(load_features(path, mmap=zipfile.is_zipfile(path)))  # files of torch < 1.6 are none


def _shown(content: Any) -> str:
    return str(tuple(content.shape)) if isinstance(content, Tensor) else type(content).__name__
