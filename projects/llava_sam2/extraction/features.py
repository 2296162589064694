"""Frames of many videos to feature files, resumable.

    folders of frames ─► loader (decode, prepare; batches of one video) ─► encoder ─► <video>.pt

A file is written whole or not at all; a video that fails is counted and the rest goes on. The note
beside the files says at what rate and by what encoder they were made, so that a run that is resumed
with other settings is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from projects.common.progress import Progress
from projects.common.video import read_image
from projects.common.whole_file import whole_file
from projects.llava_sam2.datasets.feature_files import NOTE, FeatureNote, count_frames, read_note
from projects.llava_sam2.extraction.clip import ClipEncoder
from projects.llava_sam2.extraction.frames import frame_files


@dataclass
class Extracted:
    """What a run has done.

    Attributes:
        videos, frames: that were encoded in this run.
        kept: videos that an earlier run had finished.
        failures: a message for each video without features.
    """

    videos: int = 0
    frames: int = 0
    kept: int = 0
    failures: list[str] = field(default_factory=list)


class _Chunk(NamedTuple):
    """A batch of one video's frames."""

    video: int
    start: int
    stop: int
    last: bool


def extract_features(
    folders: list[Path],
    out: Path,
    *,
    encoder: ClipEncoder,
    fps: float,
    batch_size: int = 64,
    workers: int = 0,
) -> Extracted:
    """Write ``out/<folder name>.pt`` for each folder of frames: float16 [frames, width], unit rows.

    Args:
        fps: frames a second of the features; row i belongs to second i / fps.
        workers: processes that decode and prepare frames; 0 does it in this one.

    Raises:
        ValueError: ``out`` has features that were made otherwise.
    """
    if fps <= 0 or batch_size < 1:
        raise ValueError(f"fps is positive and batch_size at least 1, got {fps} and {batch_size}")
    out.mkdir(parents=True, exist_ok=True)
    note = _opened_note(out, encoder, fps)
    done = Extracted()
    pending = list(_pending(folders, out, fps, done))
    finished = {f.name for f in folders if (out / f"{f.name}.pt").is_file()}
    note.frames.update({name: count_frames(out, name) for name in finished - note.frames.keys()})
    try:
        with Progress(
            total=len(folders), description="videos", initial=len(folders) - len(pending)
        ) as progress:
            for folder, features in _encoded(pending, encoder, fps, batch_size, workers):
                if isinstance(features, str):
                    done.failures.append(features)
                else:
                    _save(features, out / f"{folder.name}.pt")
                    note.frames[folder.name] = len(features)
                    done.videos, done.frames = done.videos + 1, done.frames + len(features)
                progress.update()
    finally:
        note.write(out)
    return done


def _opened_note(out: Path, encoder: ClipEncoder, fps: float) -> FeatureNote:
    """The note of an earlier run with these settings, or a new one, written at once."""
    size = encoder.prepare(np.zeros((64, 64, 3), dtype=np.uint8)).shape[-1]
    width = encoder.encode(torch.zeros(1, 3, size, size)).shape[1]
    note = FeatureNote(fps=float(fps), encoder=encoder.name, width=width)
    before = read_note(out)
    if before is not None:
        if (before.fps, before.encoder, before.width) != (note.fps, note.encoder, note.width):
            raise ValueError(
                f"{out}: made at {before.fps:g} frames a second by {before.encoder}, asked for are "
                f"{note.fps:g} by {note.encoder}; choose another folder, or remove this one"
            )
        return FeatureNote(note.fps, note.encoder, note.width, dict(before.frames))
    if any(out.glob("*.pt")):
        raise ValueError(
            f"{out}: has features without a {NOTE} that says how they were made; choose another "
            "folder"
        )
    note.write(out)
    return note


def _pending(
    folders: list[Path], out: Path, fps: float, done: Extracted
) -> Iterator[tuple[Path, int]]:
    """Folders to encode and how many features each gives; the others are counted."""
    for folder in folders:
        try:
            count = len(frame_files(folder, fps))
            if (out / f"{folder.name}.pt").is_file():
                there = count_frames(out, folder.name)
                if there != count:
                    raise ValueError(
                        f"{out / folder.name}.pt has {there} features, {folder} gives {count}; "
                        "remove the file"
                    )
                done.kept += 1
            else:
                yield folder, count
        except (ValueError, OSError) as error:
            done.failures.append(str(error))


def _encoded(
    pending: list[tuple[Path, int]],
    encoder: ClipEncoder,
    fps: float,
    batch_size: int,
    workers: int,
) -> Iterator[tuple[Path, Tensor | str]]:
    """Each folder with its features, or with the reason why there are none."""
    chunks = [
        _Chunk(video, start, min(start + batch_size, count), start + batch_size >= count)
        for video, (_, count) in enumerate(pending)
        for start in range(0, count, batch_size)
    ]
    folders = [folder for folder, _ in pending]
    loader = DataLoader(
        _Frames(chunks, folders, encoder, fps),
        batch_size=None,
        num_workers=workers,
        pin_memory=encoder.device.type == "cuda",
        worker_init_fn=_one_thread if workers else None,
    )
    parts: list[Tensor] = []
    failure: str | None = None
    for chunk, (pixels, problem) in zip(chunks, loader, strict=True):
        failure = failure or problem
        if failure is None:
            parts.append(encoder.encode(pixels))
        if chunk.last:
            yield folders[chunk.video], torch.cat(parts) if failure is None else failure
            parts, failure = [], None


class _Frames(Dataset):
    """Pixels [n, 3, S, S] of each chunk, and what is wrong with it."""

    def __init__(
        self, chunks: list[_Chunk], folders: list[Path], encoder: ClipEncoder, fps: float
    ) -> None:
        self.chunks, self.folders = chunks, folders
        self.prepare = encoder.prepare  # not the encoder: workers need no weights
        self.fps = fps

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> tuple[Tensor, str | None]:
        video, start, stop, _ = self.chunks[index]
        try:
            files = frame_files(self.folders[video], self.fps)[start:stop]
            return torch.stack([self.prepare(read_image(file)) for file in files]), None
        except (ValueError, OSError) as error:
            return torch.empty(0), str(error)


def _save(features: Tensor, path: Path) -> None:
    with whole_file(path) as partial:
        torch.save(features.half(), partial)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
