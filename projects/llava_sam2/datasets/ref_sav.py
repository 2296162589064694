"""Ref-SAV: descriptions of SA-V's objects; the videos and masks are SA-V's own files.

    Ref-SAV.json    {video id: {"video_path": mp4, "anno_path": json,
                                "objects": {index: {"formated": description, "short_caps": [...]}}}}

A video's masks are read when a sample asks for it: 50,000 annotation files are too many to open
before the first step. So ``Ref-SAV.json`` and the presence of the files are checked when the rows
are made, what is in them when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from projects.llava_sam2.datasets.image_files import FolderFiles
from projects.llava_sam2.datasets.records import RowErrors, collect, load_json
from projects.llava_sam2.datasets.rows import AnnotatedFrames, Expression
from projects.sam2_video.data.sav import SavVideo

_ANNOTATED_EVERY = 4  # frames of the 24 fps video


@dataclass(frozen=True)
class _Files:
    """A video of SA-V, opened when it is needed."""

    name: str
    annotation: Path
    frames: Path  # folder of extracted frames, or the mp4

    def open(self) -> SavVideo:
        return _open(self)


# one sample reads one video; the next sample reads another
@lru_cache(maxsize=1)
def _open(files: _Files) -> SavVideo:
    return SavVideo(
        name=files.name,
        json_path=files.annotation,
        frame_path=files.frames,
        ann_every=_ANNOTATED_EVERY,
        rm_unannotated=False,
    )


@dataclass(frozen=True)
class MaskletTrack:
    """One object of a masklet file."""

    files: _Files
    index: int
    group: bool = False

    def read(self, frame: int) -> np.ndarray | None:
        video = self.files.open()
        if self.index not in video.objects:
            raise ValueError(
                f"{self.files.annotation}: no object {self.index}, it has {len(video.objects)}; "
                "is it the manual annotation that Ref-SAV.json describes?"
            )
        return video.read_masks(frame, [self.index]).get(self.index)


class _Stems(Sequence):
    """Names of a video's annotated frames, without opening it before they are asked for."""

    def __init__(self, files: _Files) -> None:
        self.files = files

    def __len__(self) -> int:
        return self.files.open().num_frames

    def __getitem__(self, index: Any) -> Any:
        return self.files.open().stems[index]


class SavRow(AnnotatedFrames):
    """A described video of SA-V: its annotated frames, every 4th. Reads like a ``Row``."""

    size = None

    def __init__(self, files: _Files, descriptions: Mapping[int, str]) -> None:
        self.files = files
        self.name = files.name
        self.source = files.frames
        self.frames = _Stems(files)
        self.objects = tuple(MaskletTrack(files, index) for index in descriptions)
        self.expressions = tuple(
            Expression(text, (number,), f"{self.name}/{index}")
            for number, (index, text) in enumerate(descriptions.items())
        )

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, frame: int) -> np.ndarray:
        return self.files.open().read_frames([frame])[0]

    def read(self, frames: Any) -> np.ndarray:
        """RGB uint8 [T, H, W, 3]."""
        return self.files.open().read_frames(list(frames))

    def __repr__(self) -> str:
        return f"SavRow(name={self.name!r}, expressions={self.expressions!r})"


def ref_sav_rows(
    *,
    file: str | Path,
    video_root: str | Path,
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[SavRow]:
    """One row per video, with the description of each of its described objects.

    Args:
        file: ``Ref-SAV.json``.
        video_root: SA-V's training videos: ``<id>_manual.json`` (or what ``anno_path`` names)
            beside ``<id>/`` (extracted frames, preferred) or ``<id>.mp4``, here or in the
            folders ``sav_000``, ... of SA-V's archives.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many videos.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file, video_root = Path(file), Path(video_root)
    content = load_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected an object of video ids")
    # looked up once: a folder of 50,000 videos is not to be listed for each of them
    parts = sorted(video_root.glob("sav_[0-9][0-9][0-9]"))
    roots = [FolderFiles(root) for root in (video_root, *parts)]

    def make(named: str, name: str, errors: RowErrors) -> SavRow | str | None:
        files = _files(name, content[name], roots)
        if isinstance(files, str):
            return files
        descriptions = _descriptions(named, content[name], errors)
        return SavRow(files, descriptions) if descriptions else None

    named = ((f"video {name}", name) for name in content)
    return collect(named, make, file=file, on_bad_row=on_bad_row, limit=limit)


def _descriptions(named: str, record: Mapping[str, Any], errors: RowErrors) -> dict[int, str]:
    """The text of each object of a record."""
    descriptions = {}
    for index, entry in record["objects"].items():
        text = str(entry.get("formated", "")).strip() if isinstance(entry, dict) else ""
        if not index.isdecimal():
            errors.add(f"{named} object {index!r}", "not an index of a masklet")
        elif not text:
            errors.add(f"{named} object {index}", "empty expression")
        else:
            descriptions[int(index)] = text
    return descriptions


def _files(name: str, record: Any, roots: Sequence[FolderFiles]) -> _Files | str:
    """The files of a record, or what is wrong with it; ``roots`` as of :func:`_found`."""
    if not isinstance(record, dict) or not isinstance(record.get("objects"), dict):
        return "it needs 'objects'"
    annotation = _found(record.get("anno_path") or f"{name}_manual.json", roots)
    if isinstance(annotation, str):
        return annotation
    video = record.get("video_path") or f"{name}.mp4"
    if not isinstance(video, str):
        return f"{video!r} is no file name"
    frames = _found(str(PurePosixPath(video).with_suffix("")), roots)
    frames = frames if isinstance(frames, Path) else _found(video, roots)
    return frames if isinstance(frames, str) else _Files(name, annotation, frames)


def _found(named: Any, roots: Sequence[FolderFiles]) -> Path | str:
    """A file or folder where the record says, or where SA-V's archives and ours put it.

    Args:
        roots: the folder of the videos, and those of the archives in it.
    """
    path, problem = roots[0].find(named, folder=True)
    if problem is None or path == roots[0].root:
        return problem or path
    places = (root.find(PurePosixPath(named).name, folder=True) for root in roots)
    return next((place for place, lacking in places if lacking is None), problem)
