"""SA-V training annotations: ``<id>_manual.json`` beside an mp4 or a folder of its frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import decode_rle
from projects.common.video import FrameFolder, VideoFile
from projects.sam2_video.data.sources import frame_number, read_names, require_all


class SavVideo:
    """``masklet[k]`` holds the RLE of every object on frame ``k * every`` of the 24 fps video."""

    def __init__(self, *, name: str, json_path: Path, frame_root: Path, every: int) -> None:
        self.name = name
        self.json_path = json_path
        self.masklets = read_masklets(json_path)
        folder = frame_root / name
        self.frames: FrameFolder | VideoFile
        if folder.is_dir():
            self.frames = FrameFolder(folder)
            numbers = [frame_number(file, str(folder)) for file in self.frames.names]
            _refuse_renumbered(numbers, len(self.masklets), every, folder)
        else:
            self.frames = VideoFile(frame_root / f"{name}.mp4")
            numbers = list(range(len(self.frames)))
        annotated = [
            (position, number // every)
            for position, number in enumerate(numbers)
            if number % every == 0 and number // every < len(self.masklets)
        ]
        if not annotated:
            raise ValueError(
                f"{json_path}: none of the {len(numbers)} frames of the video is annotated; "
                f"masks are expected on every {every}th frame"
            )
        self.positions, self.masklet_indices = zip(*annotated, strict=True)

    @property
    def num_frames(self) -> int:
        return len(self.positions)

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.frames.read([self.positions[index] for index in indices])

    def read_masks(self, index: int) -> dict[int, np.ndarray]:
        step = self.masklet_indices[index]
        return {
            key: decode_rle(rle, where=f"{self.json_path}, masklet[{step}][{key}]")
            for key, rle in enumerate(self.masklets[step])
            if rle is not None
        }


class SavSource:
    """SA-V's training layout.

    Args:
        annotation_root: holds ``<id>_<kind>.json``.
        frame_root: holds ``<id>/%05d.jpg``, numbered as in the 24 fps video, or ``<id>.mp4``; the
            frames are preferred.
        list_file: ids, one a line; by default every annotation of the folder.
        kind: ``manual`` or ``auto``.
        every: a mask on every n-th frame of the video, 4 in SA-V.
    """

    def __init__(
        self,
        *,
        annotation_root: str | Path,
        frame_root: str | Path,
        list_file: str | Path | None = None,
        kind: str = "manual",
        every: int = 4,
    ) -> None:
        self.annotation_root = Path(annotation_root)
        self.frame_root = Path(frame_root)
        self.suffix = f"_{kind}.json"
        self.every = every
        if not self.annotation_root.is_dir():
            raise FileNotFoundError(f"folder {self.annotation_root} does not exist")
        if list_file is not None:
            self.names = read_names(list_file)
        else:
            files = sorted(self.annotation_root.glob(f"*{self.suffix}"))
            self.names = [path.name.removesuffix(self.suffix) for path in files]
        if not self.names:
            raise ValueError(f"{self.annotation_root} holds no *{self.suffix}")
        missing = [str(self._json(name)) for name in self.names if not self._json(name).is_file()]
        require_all(missing, "annotation files", "download them or correct the file list")
        missing = [
            f"{self.frame_root / name}[.mp4]"
            for name in self.names
            if not (self.frame_root / name).is_dir()
            and not (self.frame_root / f"{name}.mp4").is_file()
        ]
        require_all(missing, "videos (a folder of frames or an mp4)", "download or extract them")

    def _json(self, name: str) -> Path:
        return self.annotation_root / f"{name}{self.suffix}"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> SavVideo:
        name = self.names[index]
        return SavVideo(
            name=name, json_path=self._json(name), frame_root=self.frame_root, every=self.every
        )


def read_masklets(path: Path) -> list[list[Any]]:
    """The ``masklet`` of a SA-V annotation: annotated frames x objects of RLE.

    Raises:
        ValueError: the file is no json, has no masklet, or frames list unequal numbers of objects.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid json ({error}); download it again") from error
    masklets = record.get("masklet") if isinstance(record, dict) else None
    if not isinstance(masklets, list) or not masklets:
        raise ValueError(f"{path}: no list of frames under 'masklet'; is it a SA-V annotation?")
    counts = {len(frame) for frame in masklets}
    if len(counts) != 1:
        raise ValueError(f"{path}: frames of 'masklet' list unequal numbers of objects: {counts}")
    return masklets


def _refuse_renumbered(numbers: list[int], annotated: int, every: int, folder: Path) -> None:
    """Frames extracted at the annotation's rate but numbered 0, 1, 2 would get wrong masks."""
    if every > 1 and annotated > 1 and numbers == list(range(annotated)):
        raise ValueError(
            f"{folder}: {len(numbers)} frames numbered without gaps for {annotated} annotated "
            f"frames: every {every}th frame seems to have been extracted and renumbered; keep the "
            f"numbers of the video (00000, {every:05d}, ...) or pass every=1"
        )
