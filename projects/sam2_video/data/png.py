"""Videos with PNG masks: DAVIS-style palette files, and one folder of binary files per object."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from projects.common.masks import read_binary_png, read_palette_png
from projects.sam2_video.data.sources import (
    VIDEO_SUFFIXES,
    ListPaths,
    files_by_stem,
    find_frames,
    is_video,
    open_frames,
    require_all,
    video_names,
)

PNG = (".png",)
VOID = 255  # palette index of pixels that count for no object
_WAYS = "PaletteSource: <frame>.png, PerObjectSource: <object>/<frame>.png"
_KEPT = 8  # decoded masks of a video that are kept: what is asked twice is asked soon again


class FolderVideo:
    """A folder of frames, or a video file, of which some frames are annotated.

    Args:
        frame_path: the folder or the file.
        stems: names of the annotated frames; those of a video file count from 00000.
    """

    def __init__(self, *, name: str, frame_path: Path, stems: Sequence[str]) -> None:
        self.name = name
        self.folder, names = open_frames(frame_path)
        positions = {stem: index for index, stem in enumerate(names)}
        missing = [f"{frame_path}/{stem}" for stem in stems if stem not in positions]
        require_all(
            missing, f"annotated frames of video {name}", "extract them, or name masks as frames"
        )
        self.stems = sorted(stems, key=positions.__getitem__)
        self.frame_indices = [positions[stem] for stem in self.stems]  # positions in the folder

    @property
    def num_frames(self) -> int:
        return len(self.stems)

    def mask_paths(self) -> list[Path]:
        """Every mask file of the video."""
        raise NotImplementedError

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.folder.read([self.frame_indices[index] for index in indices])


class PaletteVideo(FolderVideo):
    """Masks as palette PNGs: the index of a pixel is the id of its object, 0 is background."""

    def __init__(self, *, name: str, frame_path: Path, mask_folder: Path) -> None:
        self.mask_files = files_by_stem(mask_folder, PNG)
        super().__init__(name=name, frame_path=frame_path, stems=sorted(self.mask_files))
        self._ids: dict[int, np.ndarray] = {}

    def mask_paths(self) -> list[Path]:
        return list(self.mask_files.values())

    def visible_objects(self, index: int) -> list[int]:
        counts = np.bincount(self._read_ids(index).ravel(), minlength=256)
        return [int(key) for key in np.flatnonzero(counts) if key not in (0, VOID)]

    def read_masks(
        self, index: int, objects: Collection[int] | None = None
    ) -> dict[int, np.ndarray]:
        ids = self._read_ids(index)
        wanted = self.visible_objects(index) if objects is None else objects
        return {key: ids == key for key in wanted}

    def _read_ids(self, index: int) -> np.ndarray:
        if index not in self._ids:
            if len(self._ids) >= _KEPT:
                self._ids.clear()
            self._ids[index] = self._decode_ids(self.mask_files[self.stems[index]])
        return self._ids[index]

    def _decode_ids(self, path: Path) -> np.ndarray:
        return read_palette_png(path)


class PerObjectVideo(FolderVideo):
    """Masks as ``<object>/<frame>.png``, binary; a missing file means absent."""

    def __init__(self, *, name: str, frame_path: Path, mask_folder: Path) -> None:
        self.object_folders = object_folders(mask_folder)
        self.mask_files = {
            key: files_by_stem(folder, PNG) for key, folder in self.object_folders.items()
        }
        stems = {stem for files in self.mask_files.values() for stem in files}
        super().__init__(name=name, frame_path=frame_path, stems=sorted(stems))

    def mask_paths(self) -> list[Path]:
        return [path for files in self.mask_files.values() for path in files.values()]

    def visible_objects(self, index: int) -> list[int]:
        return [key for key, mask in sorted(self.read_masks(index).items()) if mask.any()]

    def read_masks(
        self, index: int, objects: Collection[int] | None = None
    ) -> dict[int, np.ndarray]:
        stem = self.stems[index]
        return {
            key: read_binary_png(files[stem])
            for key, files in self.mask_files.items()
            if stem in files and (objects is None or key in objects)
        }


def object_folders(mask_folder: Path) -> dict[int, Path]:
    """Object id to folder, of ``<object>/<frame>.png``.

    Raises:
        ValueError: folders with masks that are not named by a number, or two of one number.
    """
    found: dict[int, Path] = {}
    for path in sorted(mask_folder.iterdir()):
        if not is_video(path) or not holds_png(path):
            continue
        if not path.name.isdigit():
            raise ValueError(
                f"{path}: folders of masks are named by the number of their object, such as 001; "
                "rename it"
            )
        other = found.setdefault(int(path.name), path)
        if other is not path:
            raise ValueError(f"{mask_folder}: {other.name} and {path.name} are one object; join")
    return found


def holds_png(folder: Path) -> bool:
    return any(path.suffix.lower() in PNG for path in folder.iterdir())


class _PngSource:
    """``image_root/<video>/<frame>.jpg`` (or ``<video>.mp4``) and ``annotation_root/<video>/...``.

    Args:
        list_file: names of videos, one a line; by default every folder of ``annotation_root``.
        exclude_file: names that are left out; one file or several.
    """

    video_type: type[PaletteVideo] | type[PerObjectVideo]
    pattern: str  # of the mask files inside of a video's folder, for messages

    def __init__(
        self,
        *,
        image_root: str | Path,
        annotation_root: str | Path,
        list_file: str | Path | None = None,
        exclude_file: ListPaths | None = None,
    ) -> None:
        self.image_root = Path(image_root)
        self.annotation_root = Path(annotation_root)
        self.names = video_names(annotation_root, list_file, exclude_file)
        frames = {name: find_frames(self.image_root, name) for name in self.names}
        missing = [
            f"{self.image_root / name}[{VIDEO_SUFFIXES[0]}]"
            for name, path in frames.items()
            if path is None
        ]
        missing += [
            str(self.annotation_root / name)
            for name in self.names
            if not (self.annotation_root / name).is_dir()
        ]
        require_all(missing, "video folders", "extract them or correct the file list")
        self.frame_paths = {name: path for name, path in frames.items() if path is not None}
        empty = [name for name in self.names if not self._has_masks(self.annotation_root / name)]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(self.names)} folders of {self.annotation_root} hold no "
                f"{self.pattern}, first: {empty[:10]}; are the masks stored another way "
                f"({_WAYS})?"
            )

    @staticmethod
    def _has_masks(folder: Path) -> bool:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> PaletteVideo | PerObjectVideo:
        name = self.names[index]
        return self.video_type(
            name=name,
            frame_path=self.frame_paths[name],
            mask_folder=self.annotation_root / name,
        )


class PaletteSource(_PngSource):
    """DAVIS, MOSE, YouTube-VOS: ``annotation_root/<video>/<frame>.png`` with a palette."""

    video_type = PaletteVideo
    pattern = "<frame>.png"
    _has_masks = staticmethod(holds_png)


class PerObjectSource(_PngSource):
    """SA-V val and test: ``annotation_root/<video>/<object>/<frame>.png``, binary."""

    video_type = PerObjectVideo
    pattern = "<object>/<frame>.png"

    @staticmethod
    def _has_masks(folder: Path) -> bool:
        return bool(object_folders(folder))
