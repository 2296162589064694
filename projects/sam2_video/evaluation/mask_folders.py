"""Masks of one video in a folder, read without the video: palette PNGs, or a folder per object.

<video>/00000.png            index of a pixel = object, 0 background, 255 void   (DAVIS, MOSE)
<video>/000/00000.png        binary, a folder per object                         (SA-V)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from projects.common.masks import read_binary_png, read_palette_png
from projects.sam2_video.evaluation.scorer import scored_frames

VOID = 255  # palette index of pixels that count for no object


class MaskFolder(Protocol):
    def read(self, stem: str, objects: Collection[int] | None) -> dict[int, np.ndarray]:
        """Object to bool ``[H, W]`` on a frame; objects without a file or a pixel may lack.

        Args:
            stem: name of the frame's file without suffix.
            objects: None: all that there are.
        """
        ...

    def file(self, stem: str, key: int) -> Path:
        """Where the mask of an object on a frame is, or would be."""
        ...

    def missing(self, stem: str, objects: Collection[int]) -> list[Path]:
        """Files that should speak of these objects on a frame and are not there."""
        ...

    def names(self) -> dict[int, str]:
        """Names of objects, where the folder gives them."""
        ...

    def frames(
        self, objects: Collection[int] | None, *, skip_first_and_last: bool
    ) -> Iterator[tuple[str, list[int] | None]]:
        """``(frame, objects)`` that are scored, in order; None: all objects of that frame."""
        ...


class PaletteMasks:
    """``<frame>.png``, the index of a pixel is the id of its object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = _png_files(path)

    def read(self, stem: str, objects: Collection[int] | None) -> dict[int, np.ndarray]:
        if stem not in self.files:
            return {}
        ids = read_palette_png(self.files[stem])
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256)).tolist()
        wanted = [key for key in present if key not in (0, VOID)] if objects is None else objects
        return {key: ids == key for key in wanted}

    def file(self, stem: str, key: int) -> Path:
        return self.files.get(stem, self.path / f"{stem}.png")

    def missing(self, stem: str, objects: Collection[int]) -> list[Path]:
        return [] if stem in self.files else [self.path / f"{stem}.png"]

    def names(self) -> dict[int, str]:
        return {}

    def frames(
        self, objects: Collection[int] | None, *, skip_first_and_last: bool
    ) -> Iterator[tuple[str, list[int] | None]]:
        wanted = None if objects is None else list(objects)
        for stem in scored_frames(list(self.files), skip_first_and_last=skip_first_and_last):
            yield stem, wanted


class PerObjectMasks:
    """``<object>/<frame>.png``, binary; folders whose names are no numbers are left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        folders = sorted(entry for entry in path.iterdir() if entry.name.isdigit())
        self.folders = {int(folder.name): folder for folder in folders}
        self.files = {key: _png_files(folder) for key, folder in self.folders.items()}

    def read(self, stem: str, objects: Collection[int] | None) -> dict[int, np.ndarray]:
        wanted = self.files if objects is None else objects
        found = {key: self.files.get(key, {}).get(stem) for key in wanted}
        return {key: read_binary_png(file) for key, file in found.items() if file is not None}

    def file(self, stem: str, key: int) -> Path:
        return self.folders.get(key, self.path / f"{key:03d}") / f"{stem}.png"

    def missing(self, stem: str, objects: Collection[int]) -> list[Path]:
        return [self.file(stem, key) for key in objects if stem not in self.files.get(key, {})]

    def names(self) -> dict[int, str]:
        return {key: folder.name for key, folder in self.folders.items()}

    def frames(
        self, objects: Collection[int] | None, *, skip_first_and_last: bool
    ) -> Iterator[tuple[str, list[int] | None]]:
        for key in self.files if objects is None else objects:
            stems = list(self.files[key])
            for stem in scored_frames(stems, skip_first_and_last=skip_first_and_last):
                yield stem, [key]


def open_masks(path: Path) -> PaletteMasks | PerObjectMasks:
    """Folder of a video by what lies in it: PNG files, or numbered folders of PNG files.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: both of them.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder of masks")
    entries = list(path.iterdir())
    per_object = any(entry.is_dir() and entry.name.isdigit() for entry in entries)
    if per_object and any(entry.suffix.lower() == ".png" for entry in entries):
        raise ValueError(
            f"{path} holds both PNG files and numbered folders: are they palette masks or one "
            "folder per object? Remove what does not belong there"
        )
    return PerObjectMasks(path) if per_object else PaletteMasks(path)


def _png_files(path: Path) -> dict[str, Path]:
    """Frames by name, in the order of their numbers."""
    files = {file.stem: file for file in path.iterdir() if file.suffix.lower() == ".png"}
    return dict(sorted(files.items(), key=lambda item: _frame_order(item[0])))


def _frame_order(stem: str) -> tuple[int, int, str]:
    return (0, int(stem), stem) if stem.isdigit() else (1, 0, stem)
