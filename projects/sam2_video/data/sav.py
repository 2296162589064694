"""SA-V training annotations: ``<id>_manual.json`` beside an mp4 or a folder of its frames."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import decode_rle, rle_area
from projects.common.packed import packed
from projects.sam2_video.data.sources import (
    VIDEO_SUFFIXES,
    ListPaths,
    choose_names,
    frame_number,
    open_frames,
    require_all,
)

KINDS = ("manual", "auto")
_PARTS = "sav_[0-9][0-9][0-9]"  # SA-V's archives unpack to folders of a thousand videos


class SavVideo:
    """``masklet[k]`` holds the RLE of every object on frame ``k * ann_every`` of the video.

    Args:
        frame_path: folder of frames, numbered as in the video, or the video file.
        objects: indices within the masklet; None: all.
        rm_unannotated: leave out frames where one of these objects has null in place of an RLE: it
            was not annotated there, and need not be absent. Otherwise null counts as absent.
    """

    def __init__(
        self,
        *,
        name: str,
        json_path: Path,
        frame_path: Path,
        ann_every: int,
        rm_unannotated: bool = True,
        objects: Collection[int] | None = None,
    ) -> None:
        self.name = name
        self.json_path = json_path
        self.masklets = read_masklets(json_path)
        self.objects = _checked_objects(objects, self.masklets, json_path)
        self.folder, names = open_frames(frame_path)
        numbers = [frame_number(name, str(frame_path)) for name in names]
        if frame_path.is_dir():
            _refuse_renumbered(numbers, len(self.masklets), ann_every, frame_path)
        annotated = [
            (position, number // ann_every)
            for position, number in enumerate(numbers)
            if number % ann_every == 0 and self._is_annotated(number // ann_every, rm_unannotated)
        ]
        if not annotated:
            raise ValueError(
                f"{json_path}: none of the {len(numbers)} frames of {frame_path} is annotated; "
                f"masks are expected on every {ann_every}th frame, and for every object unless "
                "rm_unannotated=False"
            )
        self.frame_indices = [position for position, _ in annotated]  # positions in the video
        self.masklet_indices = [step for _, step in annotated]
        self.stems = [names[position] for position in self.frame_indices]
        self.problems = _unreached(numbers, len(self.masklets), ann_every, json_path, frame_path)

    @property
    def num_frames(self) -> int:
        return len(self.frame_indices)

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.folder.read([self.frame_indices[index] for index in indices])

    def visible_objects(self, index: int) -> list[int]:
        rles = self._rles(index, self.objects)
        return [key for key, (rle, where) in rles.items() if rle_area(rle, where=where)]

    def read_masks(
        self, index: int, objects: Collection[int] | None = None
    ) -> dict[int, np.ndarray]:
        wanted = self.objects if objects is None else sorted(set(objects) & set(self.objects))
        rles = self._rles(index, wanted)
        return {key: decode_rle(rle, where=where) for key, (rle, where) in rles.items()}

    def _rles(self, index: int, objects: Collection[int]) -> dict[int, tuple[Any, str]]:
        """RLE and its place in the file, per object that is annotated on a frame."""
        step = self.masklet_indices[index]
        return {
            key: (self.masklets[step][key], f"{self.json_path}, masklet[{step}][{key}]")
            for key in objects
            if self.masklets[step][key] is not None
        }

    def _is_annotated(self, step: int, rm_unannotated: bool) -> bool:
        if step >= len(self.masklets) or self.masklets[step] is None:
            return False
        given = [self.masklets[step][key] is not None for key in self.objects]
        return all(given) if rm_unannotated else any(given)


class SavSource:
    """SA-V's training layout, also with the ``sav_000``, ``sav_001``, ... folders of its archives.

    Args:
        annotation_root: holds ``<id>_<kind>.json``.
        frame_root: holds ``<id>/%05d.jpg``, numbered as in the 24 fps video, or ``<id>.mp4``; the
            frames are preferred.
        list_file: ids, one a line; by default every annotation of the folder.
        exclude_file: ids that are left out; one file or several.
        objects_file: lines of ``id object``: take only these videos and objects.
        kind: ``manual`` or ``auto``.
        ann_every: a mask on every n-th frame of the video, 4 in SA-V.
        rm_unannotated: leave out frames where an object is not annotated (null), as Meta's
            training does; otherwise the object counts as absent there.
    """

    def __init__(
        self,
        *,
        annotation_root: str | Path,
        frame_root: str | Path,
        list_file: str | Path | None = None,
        exclude_file: ListPaths | None = None,
        objects_file: str | Path | None = None,
        kind: str = "manual",
        ann_every: int = 4,
        rm_unannotated: bool = True,
    ) -> None:
        if ann_every < 1 or kind not in KINDS:
            raise ValueError(
                f"SavSource wants ann_every >= 1 and kind {' or '.join(KINDS)}, got {ann_every}, "
                f"{kind!r}"
            )
        self.annotation_root = Path(annotation_root)
        self.frame_root = Path(frame_root)
        self.ann_every = ann_every
        self.rm_unannotated = rm_unannotated
        suffix = f"_{kind}.json"
        files = _list_parts(self.annotation_root)
        self._objects = None if objects_file is None else read_video_objects(objects_file)
        found = [name.removesuffix(suffix) for name in files if name.endswith(suffix)]
        self.names = choose_names(
            found,
            list_file=list_file,
            exclude_file=exclude_file,
            where=f"*{suffix} in {self.annotation_root}",
        )
        if self._objects is not None:
            self.names = [name for name in self.names if name in self._objects]
            if not self.names:
                raise ValueError(f"{objects_file} names none of the videos of {annotation_root}")
        # 50,000 videos: workers share them as bytes
        self._json_paths = packed(self._find_all([f"{name}{suffix}" for name in self.names], files))
        self._frame_paths = packed(self._find_frames())

    def _find_all(self, wanted: list[str], files: dict[str, Path]) -> list[Path]:
        missing = [str(self.annotation_root / name) for name in wanted if name not in files]
        require_all(missing, "annotation files", "download them or correct the file list")
        return [files[name] for name in wanted]

    def _find_frames(self) -> list[Path]:
        files = _list_parts(self.frame_root) if self.frame_root.is_dir() else {}
        endings = ("", *VIDEO_SUFFIXES)
        paths = [
            next((files[name + end] for end in endings if name + end in files), None)
            for name in self.names
        ]
        missing = [
            f"{self.frame_root / name}[.mp4]"
            for name, path in zip(self.names, paths, strict=True)
            if path is None
        ]
        require_all(missing, "videos (a folder of frames or an mp4)", "download or extract them")
        return [path for path in paths if path is not None]

    def frame_path(self, index: int) -> Path:
        """The folder of frames, or the video file."""
        return self._frame_paths[index]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> SavVideo:
        name = self.names[index]
        return SavVideo(
            name=name,
            json_path=self._json_paths[index],
            frame_path=self._frame_paths[index],
            ann_every=self.ann_every,
            rm_unannotated=self.rm_unannotated,
            objects=None if self._objects is None else self._objects[name],
        )


def read_masklets(path: Path) -> list[Any]:
    """The ``masklet`` of a SA-V annotation: annotated frames x objects of RLE.

    Raises:
        ValueError: the file is no json, has no masklet, or frames list unequal numbers of objects.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid json ({error}); download it again") from error
    masklets = record.get("masklet") if isinstance(record, dict) else None
    if not isinstance(masklets, list) or not masklets:
        raise ValueError(f"{path}: no list of frames under 'masklet'; is it a SA-V annotation?")
    odd = [step for step, frame in enumerate(masklets) if not isinstance(frame, list | None)]
    if odd:
        raise ValueError(f"{path}: masklet[{odd[0]}] is no list of objects; download it again")
    counts = {len(frame) for frame in masklets if frame is not None}
    if len(counts) != 1:
        raise ValueError(f"{path}: frames of 'masklet' list unequal numbers of objects: {counts}")
    return masklets


def read_video_objects(path: str | Path) -> dict[str, list[int]]:
    """``id object`` a line (``sav_video_obj_ids.txt``), as objects per video.

    Raises:
        FileNotFoundError, ValueError: missing, empty, or a line of another form.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"object list {path} does not exist; tools/make_sav_lists.py writes it"
        )
    objects: dict[str, list[int]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not fields[1].isdigit():
            raise ValueError(f"{path}, line {number}: {line!r} is not a video id and an object")
        objects.setdefault(fields[0], []).append(int(fields[1]))
    if not objects:
        raise ValueError(f"object list {path} names no object")
    return objects


def _list_parts(root: Path) -> dict[str, Path]:
    """Name to path of what lies in ``root`` and in its ``sav_000``-like folders."""
    if not root.is_dir():
        raise FileNotFoundError(f"folder {root} does not exist")
    folders = [root, *sorted(path for path in root.glob(_PARTS) if path.is_dir())]
    return {path.name: path for folder in reversed(folders) for path in folder.iterdir()}


def _checked_objects(objects: Collection[int] | None, masklets: list[Any], path: Path) -> list[int]:
    count = next(len(frame) for frame in masklets if frame is not None)
    if objects is None:
        return list(range(count))
    unknown = [key for key in objects if not 0 <= key < count]
    if unknown:
        raise ValueError(
            f"{path}: no objects {unknown}, it has {count}; is the object list its own?"
        )
    return sorted(objects)


def _unreached(
    numbers: list[int], annotated: int, every: int, json_path: Path, frame_path: Path
) -> list[str]:
    """Annotations behind the last frame: an extraction or a download that was cut off.

    Frames may have been extracted sparsely, so the last one may stand a gap before the last mask.
    """
    gap = max(np.diff(numbers), default=1)
    last = (annotated - 1) * every
    if last < numbers[-1] + gap:
        return []
    return [
        f"{json_path}: {annotated} annotated frames, the last one is {last}, but {frame_path} ends "
        f"with frame {numbers[-1]}: get or extract the video again"
    ]


def _refuse_renumbered(numbers: list[int], annotated: int, every: int, folder: Path) -> None:
    """Frames extracted at the annotation's rate but numbered 0, 1, 2 would get wrong masks."""
    whole = numbers == list(range(len(numbers)))
    if every > 1 and 1 < len(numbers) <= annotated and whole:
        raise ValueError(
            f"{folder}: {len(numbers)} frames numbered without gaps for {annotated} annotated "
            f"frames: every {every}th frame seems to have been extracted and renumbered, or the "
            f"end is missing; keep the video's numbers (00000, {every:05d}, ...) or pass "
            "ann_every=1"
        )
