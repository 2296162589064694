"""What an annotation source is: a list of videos that read their frames and masks when asked.

A source lists and checks what exists when it is built; only the frames and objects that a clip
takes are decoded later. Frames count the *annotated* frames of a video: 0 is the first with masks.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np

from projects.common.video import IMAGE_SUFFIXES, FrameFolder, ImageSequence, VideoFile

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_LISTED_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".json")  # lists may name files

# "Path" in the name of a type tells the check of a config that files must be there
ListPaths = str | Path | Sequence[str | Path]


class AnnotatedVideo(Protocol):
    """May also have ``stems`` (names of the annotated frames), ``problems`` (what is wrong with
    the whole of it, for ``tools/check_dataset.py``) and ``categories`` (object id to what it is,
    counted from 0)."""

    name: str
    num_frames: int  # annotated frames

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        """RGB uint8 ``[T, H, W, 3]``."""
        ...

    def visible_objects(self, index: int) -> list[int]:
        """Ids of the objects that have pixels on a frame, ascending."""
        ...

    def read_masks(
        self, index: int, objects: Collection[int] | None = None
    ) -> dict[int, np.ndarray]:
        """Object id to bool ``[H, W]``, of ``objects`` or of all that the frame lists.

        An object may be missing where it is absent.
        """
        ...


class FramedVideo(AnnotatedVideo, Protocol):
    """Annotated frames among all frames, as evaluation wants them."""

    folder: ImageSequence | VideoFile  # all frames
    stems: list[str]  # names of the annotated ones
    frame_indices: list[int]  # their positions in ``folder``, ascending


class AnnotationSource(Protocol):
    names: list[str]  # of the videos, as file lists name them

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> AnnotatedVideo: ...


def read_names(list_file: str | Path) -> list[str]:
    """Names of a file list, one a line; empty lines are left out, and so are suffixes of files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no name in it, or a name twice.
    """
    names = _read_lines(list_file)
    if not names:
        raise ValueError(f"file list {list_file} names no video")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"file list {list_file} names videos more than once: {twice[:10]}")
    return names


def choose_names(
    available: Iterable[str],
    *,
    list_file: str | Path | None,
    exclude_file: ListPaths | None,
    where: str,
) -> list[str]:
    """The names of a list, or all that are ``available``, without those of the exclusion lists.

    Args:
        where: what was looked through, for the message.

    Raises:
        FileNotFoundError: a list does not exist.
        ValueError: nothing is left.
    """
    names = sorted(available) if list_file is None else read_names(list_file)
    if not names:
        raise ValueError(f"no video found: {where}")
    files = [exclude_file] if isinstance(exclude_file, str | Path) else (exclude_file or [])
    excluded = {name for file in files for name in _read_lines(file)}
    kept = [name for name in names if name not in excluded]
    if not kept:
        raise ValueError(f"the exclusion lists {files} leave none of {len(names)} videos: {where}")
    return kept


def video_names(
    folder: str | Path, list_file: str | Path | None, exclude_file: ListPaths | None = None
) -> list[str]:
    """Sub-folders of ``folder``, chosen by the lists."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist")
    available = [] if list_file else [path.name for path in folder.iterdir() if is_video(path)]
    return choose_names(
        available,
        list_file=list_file,
        exclude_file=exclude_file,
        where=f"sub-folders of {folder}",
    )


def is_video(path: Path) -> bool:
    """Whether a folder may be a video's: tools leave hidden ones of their own beside them."""
    return path.is_dir() and not path.name.startswith(".")


def find_frames(root: Path, name: str) -> Path | None:
    """``root/name`` (a folder of frames) or ``root/name.mp4``; None where neither exists."""
    folder = root / name
    if folder.is_dir():
        return folder
    files = (root / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def open_frames(path: Path) -> tuple[FrameFolder | VideoFile, list[str]]:
    """A video and the names of its frames: file stems, or five digits counted from 00000."""
    if path.is_dir():
        folder = FrameFolder(path)
        return folder, [Path(file).stem for file in folder.names]
    video = VideoFile(path)
    return video, [f"{number:05d}" for number in range(len(video))]


def files_by_stem(root: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by their names without suffix; suffixes in capitals too.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: two files of one name.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"folder {root} does not exist")
    found: dict[str, Path] = {}
    for file in os.listdir(root):  # not Path.iterdir: SA-1B has 22 million of them
        stem, suffix = os.path.splitext(file)
        if suffix.lower() not in suffixes:
            continue
        if stem in found:
            both = " and ".join(sorted((file, found[stem].name)))
            raise ValueError(f"{root}: {both} have one name; remove one of them")
        found[stem] = root / file
    return found


def inside(root: Path, name: str, where: str) -> Path:
    """``root / name``, for a name that a file of annotations or a list gives.

    Raises:
        ValueError: the name leads out of the folder.
    """
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise ValueError(f"{where}: {name!r} leads out of its folder; give a path below it")
    return root / name


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


def _read_lines(list_file: str | Path) -> list[str]:
    path = Path(list_file)
    if not path.is_file():
        raise FileNotFoundError(f"file list {path} does not exist; write one video name a line")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors write a mark first
    except UnicodeDecodeError as error:
        raise ValueError(f"file list {path} is no UTF-8 text ({error}); save it as such") from error
    names = [_without_suffix(line.strip()) for line in text.splitlines() if line.strip()]
    for name in names:
        inside(path, name, f"file list {path}")
    return names


def _without_suffix(name: str) -> str:
    """Only suffixes of known files are cut: a dot may belong to the name of a video."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in _LISTED_SUFFIXES else name
