"""Videos with PNG masks: DAVIS-style palette files, and one folder of binary files per object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from projects.common.masks import read_binary_png, read_palette_png
from projects.common.video import FrameFolder
from projects.sam2_video.data.sources import require_all, video_names

VOID = 255  # palette index of pixels that count for no object


class FolderVideo:
    """A frame folder of which some frames, by file stem, are annotated."""

    def __init__(self, *, name: str, frame_folder: Path, stems: Sequence[str]) -> None:
        self.name = name
        self.folder = FrameFolder(frame_folder)
        positions = {Path(file).stem: index for index, file in enumerate(self.folder.names)}
        missing = [f"{frame_folder}/{stem}.jpg" for stem in stems if stem not in positions]
        require_all(missing, f"annotated frames of video {name}", "extract them")
        self.stems = sorted(stems, key=positions.__getitem__)
        self.frame_indices = [positions[stem] for stem in self.stems]  # positions in the folder

    @property
    def num_frames(self) -> int:
        return len(self.stems)

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.folder.read([self.frame_indices[index] for index in indices])


class PaletteVideo(FolderVideo):
    """Masks as palette PNGs: the index of a pixel is the id of its object, 0 is background."""

    def __init__(self, *, name: str, frame_folder: Path, mask_folder: Path) -> None:
        stems = sorted(path.stem for path in mask_folder.glob("*.png"))
        super().__init__(name=name, frame_folder=frame_folder, stems=stems)
        self.mask_folder = mask_folder

    def read_masks(self, index: int) -> dict[int, np.ndarray]:
        ids = read_palette_png(self.mask_folder / f"{self.stems[index]}.png")
        present = [int(key) for key in np.unique(ids) if key not in (0, VOID)]
        return {key: ids == key for key in present}


class PerObjectVideo(FolderVideo):
    """Masks as ``<object>/<frame>.png``, binary; a missing file means absent."""

    def __init__(self, *, name: str, frame_folder: Path, mask_folder: Path) -> None:
        self.object_folders = {
            int(path.name): path for path in sorted(mask_folder.iterdir()) if path.name.isdigit()
        }
        stems = {
            path.stem for folder in self.object_folders.values() for path in folder.glob("*.png")
        }
        super().__init__(name=name, frame_folder=frame_folder, stems=sorted(stems))

    def read_masks(self, index: int) -> dict[int, np.ndarray]:
        files = {
            key: folder / f"{self.stems[index]}.png" for key, folder in self.object_folders.items()
        }
        return {key: read_binary_png(path) for key, path in files.items() if path.is_file()}


class _FolderSource:
    """``image_root/<video>/<frame>.jpg`` beside ``annotation_root/<video>/...``."""

    video_type: type[PaletteVideo] | type[PerObjectVideo]
    pattern: str  # of the mask files inside of a video's folder

    def __init__(
        self,
        *,
        image_root: str | Path,
        annotation_root: str | Path,
        list_file: str | Path | None = None,
    ) -> None:
        self.image_root = Path(image_root)
        self.annotation_root = Path(annotation_root)
        self.names = video_names(annotation_root, list_file)
        missing = [
            str(root / name)
            for root in (self.image_root, self.annotation_root)
            for name in self.names
            if not (root / name).is_dir()
        ]
        require_all(missing, "video folders", "extract them or correct the file list")
        empty = [
            str(self.annotation_root / name)
            for name in self.names
            if next((self.annotation_root / name).glob(self.pattern), None) is None
        ]
        if empty:
            raise ValueError(
                f"{len(empty)} annotation folders hold no {self.pattern}, first: {empty[:10]}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> PaletteVideo | PerObjectVideo:
        name = self.names[index]
        return self.video_type(
            name=name,
            frame_folder=self.image_root / name,
            mask_folder=self.annotation_root / name,
        )


class PaletteSource(_FolderSource):
    """DAVIS, MOSE, YouTube-VOS: ``annotation_root/<video>/<frame>.png`` with a palette."""

    video_type = PaletteVideo
    pattern = "*.png"


class PerObjectSource(_FolderSource):
    """SA-V val and test: ``annotation_root/<video>/<object>/<frame>.png``, binary."""

    video_type = PerObjectVideo
    pattern = "*/*.png"
