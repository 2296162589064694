"""What a dataset wants on disk: files, folders with so many files, and files that a list names.

Each says what is missing below a data root, or nothing. Lists are read for their names alone; what
is inside of the records is checked by ``tools/check_dataset.py``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from projects.llava_sam2.datasets.records import load_json


class Wanted(Protocol):
    def missing(self, root: Path) -> str | None:
        """What is not there, in words, or None."""


@dataclass(frozen=True)
class File:
    """One file, not empty."""

    path: str

    def missing(self, root: Path) -> str | None:
        path = root / self.path
        if not path.is_file():
            return f"no {self.path}"
        return None if path.stat().st_size else f"{self.path} is empty: download it again"


@dataclass(frozen=True)
class Folder:
    """A folder with at least so many entries whose names end so.

    ``parts``: folders within it that may hold them in its place, as a pattern (``sav_*``).
    """

    path: str
    ending: str = ""
    least: int = 1
    parts: str | None = None

    def missing(self, root: Path) -> str | None:
        path = root / self.path
        if not path.is_dir():
            return f"no folder {self.path}"
        found = 0
        for folder in [path, *(path.glob(self.parts) if self.parts else ())]:
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    found += sum(entry.name.endswith(self.ending) for entry in entries)
        if found >= self.least:
            return None
        return (
            f"{self.path}: {found} of {self.least} {f'*{self.ending}' if self.ending else 'files'}"
        )


@dataclass(frozen=True)
class Videos:
    """A folder of frames for every video of a ``meta_expressions.json``.

    ``without``: another such file, if it is there; its videos do not belong to this split.
    """

    expressions: str
    frames: str
    without: str | None = None

    def missing(self, root: Path) -> str | None:
        if not (root / self.expressions).is_file():
            return None  # said by its own File
        videos, others = _named(root / self.expressions), None
        if videos is None:
            return f"{self.expressions}: no 'videos' in it; is it the right file?"
        if self.without is not None and (root / self.without).is_file():
            others = _named(root / self.without)
        own = [name for name in videos if name not in (others or ())]
        return _absent(own, root, self.frames, "", f"videos of {self.expressions}")


@dataclass(frozen=True)
class Images:
    """Every image of a COCO json."""

    instances: str
    images: str

    def missing(self, root: Path) -> str | None:
        if not (root / self.instances).is_file():
            return None
        record = load_json(root / self.instances)
        try:
            names = [image["file_name"] for image in record["images"]]
        except (KeyError, TypeError):
            return f"{self.instances}: no 'images' with 'file_name'; is it the right file?"
        return _absent(names, root, self.images, "", f"images of {self.instances}")


@dataclass(frozen=True)
class Features:
    """A feature file for every video that an annotation file names.

    The file is Charades-STA's text, a table with a column ``id``, or a json list of records with
    ``video``.
    """

    annotation: str
    folder: str

    def missing(self, root: Path) -> str | None:
        path = root / self.annotation
        if not path.is_file():
            return None
        try:
            names = sorted(set(_videos_of(path)))
        except (KeyError, TypeError):
            return f"{self.annotation}: its records name no 'video'; is it the right file?"
        return _absent(names, root, self.folder, ".pt", f"videos of {self.annotation}")


def _named(expressions: Path) -> dict[str, Any] | None:
    record = load_json(expressions)
    videos = record.get("videos") if isinstance(record, dict) else None
    return videos if isinstance(videos, dict) else None


def _videos_of(path: Path) -> Iterator[str]:
    if path.suffix == ".json":
        yield from (PurePosixPath(record["video"]).stem for record in load_json(path))
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as lines:
            yield from (record["id"] for record in csv.DictReader(lines))
    else:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield line.split()[0]


def _absent(names: Iterable[Any], root: Path, folder: str, suffix: str, what: str) -> str | None:
    wanted = [f"{name}{suffix}" for name in names]
    absent = [name for name in wanted if not (root / folder / name).exists()]
    if not absent:
        return None
    return f"{folder}: {len(absent)} of {len(wanted)} {what} are not there, e.g. {absent[0]}"
