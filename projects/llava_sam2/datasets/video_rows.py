"""Rows of referring-video datasets: ``meta_expressions.json`` and masks of a kind.

    {"videos": {video: {"frames": [...], "expressions": {id: {"exp": str, ...}}}}}

    masks                    StoredMasks     a mask dictionary, by the expression's ``anno_id``
                             NumberedMasks   a mask dictionary, by the number of the expression
                             PaletteMasks    palette PNGs, by the expression's ``obj_id``
                             None            with the benchmark's server

A dataset is a short function that says which files and which kind (mevis.py, revos.py, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from projects.common.mask_store import MaskStore
from projects.common.masks import read_palette_png
from projects.llava_sam2.datasets.image_files import FolderFiles
from projects.llava_sam2.datasets.records import RowErrors, collect, load_json
from projects.llava_sam2.datasets.rows import (
    ALL_EMPTY,
    Expression,
    MaskTrack,
    Row,
    tracks_read,
)

_FIELDS = {"frames", "expressions"}
Entry = Mapping[str, Any]  # of an expression: exp, obj_id, anno_id, type_id


class VideoMasks(Protocol):
    """Where the masks of a dataset are."""

    def names(self, video: str, key: str, entry: Entry) -> list[str]:
        """What the objects of an expression are called; without any the record is bad."""

    def track(self, video: str, name: str, frames: Sequence[str]) -> MaskTrack | str:
        """The masks of an object on frames (stems of their files), or what is wrong with them."""


class StoredMasks:
    """A mask dictionary whose keys the expressions name in ``anno_id``."""

    def __init__(self, store: MaskStore) -> None:
        self.store = store

    def names(self, video: str, key: str, entry: Entry) -> list[str]:
        return [str(anno_id) for anno_id in _listed(entry.get("anno_id", ()))]

    def track(self, video: str, name: str, frames: Sequence[str]) -> MaskTrack | str:
        if name not in self.store:
            return f"anno_id {name} not in {self.store.source}"
        track = self.store[name]
        if len(track) != len(frames):
            return (
                f"anno_id {name} has {len(track)} masks in {self.store.source} for "
                f"{len(frames)} frames"
            )
        return track


class NumberedMasks(StoredMasks):
    """A mask dictionary by a running count of the expressions: videos in the order of the file,
    expression ids sorted as text (the ``mask_dict.pkl`` of Sa2VA's releases).

    Raises:
        ValueError: the dictionary has not one entry for each expression.
    """

    def __init__(self, store: MaskStore, videos: Mapping[str, Any]) -> None:
        super().__init__(store)
        keys = [
            (video, key)
            for video, content in videos.items()
            if isinstance(content, dict) and isinstance(content.get("expressions"), dict)
            for key in sorted(content["expressions"])
        ]
        if len(keys) != len(store):
            raise ValueError(
                f"{store.source}: {len(store)} entries for {len(keys)} expressions; they go by the "
                "number of the expression, so this dictionary belongs to other expressions"
            )
        self.number = {place: str(number) for number, place in enumerate(keys)}

    def names(self, video: str, key: str, entry: Entry) -> list[str]:
        return [self.number[video, key]]


class PaletteMasks:
    """PNGs ``<root>/<video>/<frame>.png`` in which each pixel holds its object's ``obj_id``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, video: str, key: str, entry: Entry) -> list[str]:
        return [str(obj_id) for obj_id in _listed(entry.get("obj_id", ()))]

    def track(self, video: str, name: str, frames: Sequence[str]) -> MaskTrack | str:
        if not name.isdecimal() or not 0 < int(name) < 256:
            return f"obj_id {name!r} is no id of a palette PNG (1 to 255)"
        folder = self.root / video
        problem = missing_files(folder, [f"{frame}.png" for frame in frames])
        return problem or PaletteTrack(folder, frames, int(name))


@dataclass(frozen=True)
class PaletteTrack:
    """One object of palette PNGs, one a frame."""

    folder: Path
    frames: Sequence[str]  # stems of the files
    object_id: int
    group: bool = False

    def read(self, frame: int) -> np.ndarray:
        return _read_ids(self.folder / f"{self.frames[frame]}.png") == self.object_id


# a sample asks for the objects of a handful of frames one after the other
_read_ids = lru_cache(maxsize=16)(read_palette_png)


def video_rows(
    *,
    meta_file: Path,
    frame_root: Path,
    masks: Callable[[Mapping[str, Any]], VideoMasks] | None,
    part: Callable[[str, Mapping[str, Entry], str], str | None] = lambda *of: None,
    absent: Callable[[Entry], bool] = lambda entry: False,
    without: Collection[str] = (),
    suffix: str = ".jpg",
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[Row]:
    """One row per video, with all its expressions; an expression's mask is the union of its
    objects'.

    Args:
        meta_file: ``meta_expressions.json``.
        frame_root: holds ``<video>/<frame><suffix>``.
        masks: makes a reader of the masks from the file's videos; None: the masks are not public.
        part: of the dataset, of (video, the video's expressions, expression id).
        absent: whether an expression may name nothing that is there.
        without: videos of the file that do not belong to the split.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many videos.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    content = load_json(meta_file)
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise ValueError(f"{meta_file}: expected an object with 'videos'")
    reader = None if masks is None else masks(videos)
    files = FolderFiles(frame_root)

    def make(named: str, name: str, errors: RowErrors) -> Row | str | None:
        video = videos[name]
        folder, problem = files.find(name, folder=True)
        problem = _broken(video) or (problem if folder == frame_root else None)
        if problem is not None:
            return problem
        frames = tuple(f"{frame}{suffix}" for frame in video["frames"])
        problem = missing_files(folder, frames)
        if problem is not None:
            return problem
        row = _Video(name, video, reader, part, absent, errors).row(folder, frames)
        return row if row.expressions else None

    named = ((f"video {name}", name) for name in videos if name not in without)
    return collect(named, make, file=meta_file, on_bad_row=on_bad_row, limit=limit)


def missing_files(folder: Path, files: Sequence[str]) -> str | None:
    """What is wrong with a folder that should have these files, or None."""
    if not files:
        return "it lists no frames"
    if not folder.is_dir():
        return f"no folder {folder}"
    missing = set(files) - {path.name for path in folder.iterdir()}
    if missing:
        return f"{len(missing)} of {len(files)} frames are not in {folder}, e.g. {min(missing)}"
    return None


class _Video:
    """Turns one video's record into a row."""

    def __init__(
        self,
        name: str,
        video: Mapping[str, Any],
        masks: VideoMasks | None,
        part: Callable[[str, Mapping[str, Entry], str], str | None],
        absent: Callable[[Entry], bool],
        errors: RowErrors,
    ) -> None:
        self.name, self.masks, self.part, self.absent = name, masks, part, absent
        self.errors = errors
        self.frames = tuple(video["frames"])
        self.entries: Mapping[str, Entry] = video["expressions"]

    def row(self, folder: Path, frames: tuple[str, ...]) -> Row:
        tracks = self._tracks()
        known = [name for name, track in tracks.items() if not isinstance(track, str)]
        position = {name: index for index, name in enumerate(known)}
        objects = tuple(tracks[name] for name in known)
        expressions = []
        for key, entry in self.entries.items():
            problem = self._problem(key, entry, tracks)
            if problem is None:
                named = self._names(key, entry)
                targets = None if named is None else tuple(position[name] for name in named)
                part = self.part(self.name, self.entries, key)
                text = entry["exp"].strip()
                expressions.append(Expression(text, targets, f"{self.name}/{key}", part))
            else:
                self.errors.add(f"video {self.name} expression {key}", problem)
        return Row(self.name, folder, frames, None, objects, tuple(expressions))

    def _names(self, key: str, entry: Entry) -> list[str] | None:
        return None if self.masks is None else self.masks.names(self.name, key, entry)

    def _tracks(self) -> dict[str, MaskTrack | str]:
        """Every object that an expression names, or what is wrong with it."""
        if self.masks is None:
            return {}
        used = {n for key, entry in self.entries.items() for n in self._names(key, entry) or ()}
        return {
            name: self.masks.track(self.name, name, self.frames)
            for name in sorted(used, key=_numeric)
        }

    def _problem(self, key: str, entry: Entry, tracks: Mapping[str, MaskTrack | str]) -> str | None:
        """What is wrong with an expression, or None."""
        text = entry.get("exp", "")
        if not isinstance(text, str):
            return f"'exp' is {text!r}, not text"
        if not text.strip():
            return "empty expression"
        names = self._names(key, entry)
        if names is None:
            return None
        if not names:
            if self.absent(entry):
                return None
            return (
                "it names no anno_id or obj_id (a split without masks is scored by the benchmark's "
                "server)"
            )
        for name in names:
            if isinstance(tracks[name], str):
                return tracks[name]
        found = [tracks[name] for name in names]
        problem = tracks_read(range(len(found)), found, len(self.frames))
        return None if problem == ALL_EMPTY and self.absent(entry) else problem


def _broken(video: Any) -> str | None:
    """What a video's record lacks, or None."""
    if not isinstance(video, dict) or not video.keys() >= _FIELDS:
        return "it needs 'frames' and 'expressions'"
    entries = video["expressions"]
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        return "its 'expressions' are no objects by id"
    return None if isinstance(video["frames"], list) else "its 'frames' are no list"


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _numeric(text: str) -> tuple[int, str]:
    return (int(text), text) if text.isdecimal() else (-1, text)
