"""What an annotation source is: a list of videos that read their frames and masks when asked.

A source lists and checks what exists when it is built; only the frames that a clip takes are
decoded later. Frames count the *annotated* frames of a video: 0 is the first one with masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class AnnotatedVideo(Protocol):
    name: str
    num_frames: int  # annotated frames

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        """RGB uint8 ``[T, H, W, 3]``."""
        ...

    def read_masks(self, index: int) -> dict[int, np.ndarray]:
        """Object id to bool ``[H, W]``; an object may be missing where it is absent."""
        ...


class AnnotationSource(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> AnnotatedVideo: ...


def read_names(list_file: str | Path) -> list[str]:
    """Names of a file list, one a line; empty lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no name in it, or a name twice.
    """
    path = Path(list_file)
    if not path.is_file():
        raise FileNotFoundError(f"file list {path} does not exist; write one video name a line")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    if not names:
        raise ValueError(f"file list {path} names no video")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"file list {path} names videos more than once: {twice[:10]}")
    return names


def video_names(folder: str | Path, list_file: str | Path | None) -> list[str]:
    """The names of a list, or every sub-folder of ``folder`` where there is no list."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist")
    if list_file is not None:
        return read_names(list_file)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names:
        raise ValueError(f"{folder} holds no video folders")
    return names


def require_all(missing: list[str], what: str, mend: str) -> None:
    """Raise one error for everything that is missing: the count and the first ten."""
    if missing:
        listed = "\n  ".join(missing[:10])
        raise FileNotFoundError(f"{len(missing)} {what} missing, {mend}:\n  {listed}")


def frame_number(name: str, where: str) -> int:
    """The number in a frame's file name such as ``00012.jpg``."""
    stem = Path(name).stem
    if not stem.isdigit():
        raise ValueError(f"{where}: frame {name!r} is not named by its number, such as 00012.jpg")
    return int(stem)
