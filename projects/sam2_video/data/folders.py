"""Plain folders: images (or videos) in one folder and masks with the same names in another."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from projects.common.masks import read_binary_png, read_palette_png
from projects.common.video import IMAGE_SUFFIXES, read_image
from projects.sam2_video.data.png import PNG, VOID, PaletteVideo, holds_png
from projects.sam2_video.data.sources import (
    ListPaths,
    choose_names,
    files_by_stem,
    find_frames,
    is_video,
    require_all,
)

MaskValues = Literal["auto", "binary", "index"]


class MaskFolderVideo(PaletteVideo):
    """As :class:`PaletteVideo`, for masks that hold ids or a single object."""

    def __init__(
        self, *, name: str, frame_path: Path, mask_folder: Path, mask_values: MaskValues
    ) -> None:
        self.mask_values = mask_values
        super().__init__(name=name, frame_path=frame_path, mask_folder=mask_folder)

    def _decode_ids(self, path: Path) -> np.ndarray:
        return read_ids(path, self.mask_values)


class MaskedImage:
    """One image and its mask file, as a video of one frame."""

    num_frames = 1

    def __init__(self, *, name: str, path: Path, mask_path: Path, mask_values: MaskValues) -> None:
        self.name = name
        self.path = path
        self.mask_path = mask_path
        self.mask_values = mask_values

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        image = read_image(self.path)
        return np.stack([image for _ in indices])

    def visible_objects(self, index: int) -> list[int]:
        return _ids_of(read_ids(self.mask_path, self.mask_values))

    def read_masks(
        self, index: int, objects: Collection[int] | None = None
    ) -> dict[int, np.ndarray]:
        ids = read_ids(self.mask_path, self.mask_values)
        return {key: ids == key for key in _ids_of(ids) if objects is None or key in objects}


class _MaskFolders:
    """Names that have masks, each with its frames.

    Args:
        mask_values: ``index``: a pixel's value is the id of its object, 0 is background, 255
            nothing. ``binary``: every value but 0 is the one object. ``auto``: binary where a mask
            holds nothing but 0 and 255, else index.
        list_file: names of videos or images, one a line; by default all that have masks.
        exclude_file: names that are left out; one file or several.
    """

    def __init__(
        self,
        pairs: dict[str, tuple[Path | None, Path]],
        *,
        mask_values: MaskValues,
        list_file: str | Path | None,
        exclude_file: ListPaths | None,
        where: str,
    ) -> None:
        if mask_values not in ("auto", "binary", "index"):
            raise ValueError(f"mask_values must be auto, binary or index, got {mask_values!r}")
        self.mask_values = mask_values
        self.names = choose_names(
            pairs, list_file=list_file, exclude_file=exclude_file, where=where
        )
        unknown = [name for name in self.names if name not in pairs]
        require_all(unknown, f"names of {list_file} ({where})", "correct the file list")
        missing = [f"{name}, of {pairs[name][1]}" for name in self.names if pairs[name][0] is None]
        require_all(missing, f"images ({where})", "every mask needs its image")
        self.pairs = {
            name: (frames, mask)
            for name, (frames, mask) in pairs.items()
            if frames is not None and name in set(self.names)
        }

    def __len__(self) -> int:
        return len(self.names)


class FolderSource(_MaskFolders):
    """Videos with masks of the same names.

    ::

        image_root/<video>/<frame>.jpg     annotation_root/<video>/<frame>.png
        image_root/<video>.mp4             annotation_root/<video>/00000.png    frames by number
        root/<video>/images/<frame>.jpg    root/<video>/masks/<frame>.png       both roots are root

    Args:
        image_root, annotation_root: the folders; the second may be left out where it is the first.
        images, masks: names of the two folders inside of a video's.
        mask_values, list_file, exclude_file: see ``_MaskFolders``.
    """

    def __init__(
        self,
        *,
        image_root: str | Path,
        annotation_root: str | Path | None = None,
        images: str = "images",
        masks: str = "masks",
        mask_values: MaskValues = "auto",
        list_file: str | Path | None = None,
        exclude_file: ListPaths | None = None,
    ) -> None:
        self.image_root = _folder(image_root)
        self.annotation_root = _folder(annotation_root or image_root)
        where = f"videos of {self.image_root} with PNG masks in {self.annotation_root}"
        if self.annotation_root == self.image_root:
            where = f"folders of {self.image_root} that hold {images}/ and {masks}/"
            pairs = _folders_inside(self.image_root, images, masks)
        else:
            pairs = {
                path.name: (find_frames(self.image_root, path.name), path)
                for path in sorted(self.annotation_root.iterdir())
                if is_video(path)
            }
        super().__init__(
            pairs,
            mask_values=mask_values,
            list_file=list_file,
            exclude_file=exclude_file,
            where=where,
        )
        empty = [str(mask) for _, mask in self.pairs.values() if not holds_png(mask)]
        if empty:
            raise ValueError(
                f"{len(empty)} mask folders hold no PNG, save masks as PNG: {empty[:10]}"
            )

    def __getitem__(self, index: int) -> MaskFolderVideo:
        name = self.names[index]
        frames, masks = self.pairs[name]
        return MaskFolderVideo(
            name=name, frame_path=frames, mask_folder=masks, mask_values=self.mask_values
        )


class ImageFolderSource(_MaskFolders):
    """Single images, ``image_root/<name>.jpg`` and ``annotation_root/<name>.png``.

    Args:
        mask_values, list_file, exclude_file: see ``_MaskFolders``.
    """

    def __init__(
        self,
        *,
        image_root: str | Path,
        annotation_root: str | Path,
        mask_values: MaskValues = "auto",
        list_file: str | Path | None = None,
        exclude_file: ListPaths | None = None,
    ) -> None:
        self.image_root, self.annotation_root = _folder(image_root), _folder(annotation_root)
        images = files_by_stem(self.image_root, IMAGE_SUFFIXES)
        masks = files_by_stem(self.annotation_root, PNG)
        super().__init__(
            {name: (images.get(name), path) for name, path in masks.items()},
            mask_values=mask_values,
            list_file=list_file,
            exclude_file=exclude_file,
            where=f"images of {self.image_root} with PNG masks in {self.annotation_root}",
        )

    def __getitem__(self, index: int) -> MaskedImage:
        name = self.names[index]
        image, mask = self.pairs[name]
        return MaskedImage(name=name, path=image, mask_path=mask, mask_values=self.mask_values)


def _folder(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"folder {path} does not exist")
    return path


def _folders_inside(root: Path, images: str, masks: str) -> dict[str, tuple[Path | None, Path]]:
    videos = (path for path in sorted(root.iterdir()) if (path / masks).is_dir())
    return {
        path.name: (path / images if (path / images).is_dir() else None, path / masks)
        for path in videos
    }


def read_ids(path: Path, mask_values: MaskValues) -> np.ndarray:
    """Object ids of a mask file, uint8 [H, W]; the only object of a binary one is 1."""
    if mask_values == "binary":
        return read_binary_png(path).astype(np.uint8)
    ids = read_palette_png(path)
    found = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    if mask_values == "auto" and set(found.tolist()) <= {0, VOID}:
        return (ids > 0).astype(np.uint8)
    return ids


def _ids_of(ids: np.ndarray) -> list[int]:
    counts = np.bincount(ids.ravel(), minlength=256)
    return [int(key) for key in np.flatnonzero(counts) if key not in (0, VOID)]
