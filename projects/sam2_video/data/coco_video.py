"""Videos in one COCO json: images carry ``video_id`` and ``order_in_video``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.video import ImageSequence
from projects.sam2_video.data.coco_json import (
    Entry,
    decode_entries,
    field,
    number,
    read_coco,
    select,
    size_of,
    visible_entries,
)
from projects.sam2_video.data.sources import ListPaths, choose_names, require_all

TRACK_FIELDS = ("track_id", "instance_id", "object_id")
BY_ORDER = "order"


class CocoVideo:
    """Images of one ``video_id`` in order; objects are tracks."""

    def __init__(
        self,
        *,
        name: str,
        image_root: Path,
        images: list[Entry],
        entries: list[dict[int, Entry]],
        where: str,
    ) -> None:
        self.name = name
        self.images = images
        self.folder = ImageSequence(where, [image_root / image["file_name"] for image in images])
        self.entries = entries  # per image: track to annotation
        self.where = where

    @property
    def num_frames(self) -> int:
        return len(self.images)

    @property
    def stems(self) -> list[str]:
        return self.folder.names

    @property
    def frame_indices(self) -> list[int]:
        return list(range(len(self.images)))

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.folder.read(indices)

    def visible_objects(self, index: int) -> list[int]:
        return visible_entries(self.entries[index], self._size(index), where=self.where)

    def read_masks(
        self, index: int, objects: Collection[int] | None = None
    ) -> dict[int, np.ndarray]:
        wanted = select(self.entries[index], objects)
        return decode_entries(wanted, self._size(index), where=self.where)

    def _size(self, index: int) -> tuple[int, int]:
        image = self.images[index]
        return size_of(image, f"{self.where}, image {image['id']}")


class CocoVideoSource:
    """A COCO json whose images belong to videos.

    Args:
        annotation_file: the json; segmentations are polygons or RLE.
        image_root: the folder of the images' ``file_name``.
        track_field: key of an annotation that names its object through the video. None takes the
            one of ``track_id``, ``instance_id``, ``object_id`` that all annotations carry;
            ``"order"`` says that the n-th annotation of every frame is the n-th object.
        list_file, exclude_file: video ids (or names under ``videos``) to take, and to leave out.
    """

    def __init__(
        self,
        *,
        annotation_file: str | Path,
        image_root: str | Path,
        track_field: str | None = None,
        list_file: str | Path | None = None,
        exclude_file: ListPaths | None = None,
    ) -> None:
        self.annotation_file = Path(annotation_file)
        self.image_root = Path(image_root)
        images, annotations = read_coco(self.annotation_file)
        self.track_field = track_field or self._find_track_field(annotations)
        self.videos = self._videos(images)
        self.entries = self._entries(images, annotations)
        self.names = choose_names(
            self.videos,
            list_file=list_file,
            exclude_file=exclude_file,
            where=f"video_id of the images of {self.annotation_file}",
        )
        unknown = [name for name in self.names if name not in self.videos]
        require_all(unknown, f"videos in {self.annotation_file}", "correct the file list")
        paths = [self.image_root / i["file_name"] for n in self.names for i in self.videos[n]]
        require_all([str(path) for path in paths if not path.is_file()], "images", "download them")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> CocoVideo:
        name = self.names[index]
        images = self.videos[name]
        return CocoVideo(
            name=name,
            image_root=self.image_root,
            images=images,
            entries=[self.entries[image["id"]] for image in images],
            where=f"{self.annotation_file}, video {name}",
        )

    def _find_track_field(self, annotations: list[Entry]) -> str:
        for key in TRACK_FIELDS:
            if annotations and all(entry.get(key) is not None for entry in annotations):
                return key
        if not annotations:
            raise ValueError(f"{self.annotation_file}: the list of annotations is empty")
        raise ValueError(
            f"{self.annotation_file}: no key of {', '.join(TRACK_FIELDS)} is in all "
            f"{len(annotations)} annotations, so objects cannot be followed through a video; name "
            f"the key by track_field, or pass track_field={BY_ORDER!r} where the n-th annotation "
            "of every frame is the n-th object"
        )

    def _videos(self, images: dict[int, Entry]) -> dict[str, list[Entry]]:
        """Images per video, in order."""
        videos: dict[str, list[Entry]] = {}
        for key, image in images.items():
            where = f"{self.annotation_file}, image {key}"
            video = field(image, "video_id", where, "for single images use CocoImageSource")
            number(image, "order_in_video", where, "it says which frame of the video this is")
            videos.setdefault(str(video), []).append(image)
        for name, frames in videos.items():
            frames.sort(key=lambda image: image["order_in_video"])
            orders = [image["order_in_video"] for image in frames]
            if len(set(orders)) != len(orders):
                raise ValueError(
                    f"{self.annotation_file}, video {name}: two images have the same order_in_video"
                )
        return videos

    def _entries(
        self, images: dict[int, Entry], annotations: list[Entry]
    ) -> dict[int, dict[int, Entry]]:
        """Per image: object to annotation."""
        found: dict[int, dict[int, Entry]] = {key: {} for key in images}
        for entry in annotations:
            tracks = found[entry["image_id"]]
            track = self._track(entry, len(tracks))
            if track in tracks:
                raise ValueError(
                    f"{self.annotation_file}, image {entry['image_id']}: annotations "
                    f"{tracks[track]['id']} and {entry['id']} both are {self.track_field} {track}"
                )
            tracks[track] = entry
        return found

    def _track(self, entry: Entry, earlier: int) -> int:
        if self.track_field == BY_ORDER:
            return earlier
        where = f"{self.annotation_file}, annotation {entry['id']}"
        track: Any = field(entry, self.track_field, where, "every annotation needs it")
        if not isinstance(track, int):
            raise ValueError(f"{where}: {self.track_field} {track!r} is not a whole number")
        return track
