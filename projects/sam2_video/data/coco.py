"""Images with instance masks in COCO's json, as videos of one frame."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from projects.common.plain_pickle import load_plain_pickle
from projects.common.video import read_image
from projects.sam2_video.data.coco_json import (
    Entry,
    decode_entries,
    field,
    read_coco,
    select,
    size_of,
    visible_entries,
)
from projects.sam2_video.data.sources import ListPaths, choose_names, require_all


class ImageVideo:
    """One image; objects are annotation ids, categories are counted from 0."""

    num_frames = 1

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        height: int,
        width: int,
        annotations: list[Entry],
        categories: dict[int, int] | None,
        where: str,
    ) -> None:
        self.name = name
        self.path = path
        self.size = (height, width)
        self.entries = {int(entry["id"]): entry for entry in annotations}
        self.categories = categories
        self.where = where

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        image = read_image(self.path)
        return np.stack([image for _ in indices])

    def visible_objects(self, index: int) -> list[int]:
        return visible_entries(self.entries, self.size, where=self.where)

    def read_masks(
        self, index: int, objects: Collection[int] | None = None
    ) -> dict[int, np.ndarray]:
        return decode_entries(select(self.entries, objects), self.size, where=self.where)


class CocoImageSource:
    """Images of a COCO instances json that have at least one annotation.

    Args:
        annotation_file: ``instances.json`` (``images``, ``annotations``).
        image_root: the folder of the images' ``file_name``.
        refs_file: ``refs(unc).p`` of RefCOCO; keeps only images of the ``splits``, so that images
            held out for evaluation are not trained on.
        splits: names of splits in ``refs_file``.
        include_crowd: whether annotations with ``iscrowd`` count as objects.
        list_file, exclude_file: file names (suffix or not) to take, and to leave out.
    """

    def __init__(
        self,
        *,
        annotation_file: str | Path,
        image_root: str | Path,
        refs_file: str | Path | None = None,
        splits: Sequence[str] = ("train",),
        include_crowd: bool = False,
        list_file: str | Path | None = None,
        exclude_file: ListPaths | None = None,
    ) -> None:
        self.annotation_file = Path(annotation_file)
        self.image_root = Path(image_root)
        self.images, entries = read_coco(self.annotation_file)
        # categories are counted from 0, in the order of their ids, which may have gaps
        used = {entry.get("category_id") for entry in entries}
        self.category_ids = [] if None in used else sorted(used)
        self.annotations: dict[int, list[Entry]] = {}
        for entry in entries:
            if include_crowd or not entry.get("iscrowd"):
                self.annotations.setdefault(entry["image_id"], []).append(entry)
        wanted = None if refs_file is None else _images_of_splits(Path(refs_file), splits)
        ids = [key for key in sorted(self.annotations) if wanted is None or key in wanted]
        if not ids:
            raise ValueError(f"{self.annotation_file}: no annotated image of the splits {splits}")
        self.image_ids = self._chosen(ids, list_file, exclude_file)
        paths = [self._path(image_id) for image_id in self.image_ids]
        require_all([str(path) for path in paths if not path.is_file()], "images", "download them")

    @property
    def names(self) -> list[str]:
        """File names without suffix, as lists name them."""
        return [self._stem(image_id) for image_id in self.image_ids]

    def _stem(self, image_id: int) -> str:
        return str(Path(self.images[image_id]["file_name"]).with_suffix(""))

    def _chosen(
        self, ids: list[int], list_file: str | Path | None, exclude_file: ListPaths | None
    ) -> list[int]:
        if list_file is None and exclude_file is None:
            return ids
        stems = {key: self._stem(key) for key in ids}
        names = choose_names(
            stems.values(),
            list_file=list_file,
            exclude_file=exclude_file,
            where=f"images of {self.annotation_file}",
        )
        unknown = sorted(set(names) - set(stems.values()))
        require_all(unknown, f"images of the list {list_file}", "they have no annotation")
        return [key for key in ids if stems[key] in set(names)]

    def _path(self, image_id: int) -> Path:
        return self.image_root / self.images[image_id]["file_name"]

    def _categories(self, annotations: list[Entry]) -> dict[int, int] | None:
        if not self.category_ids:
            return None
        place = {key: index for index, key in enumerate(self.category_ids)}
        return {int(entry["id"]): place[entry["category_id"]] for entry in annotations}

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> ImageVideo:
        image_id = self.image_ids[index]
        image = self.images[image_id]
        height, width = size_of(image, f"{self.annotation_file}, image {image_id}")
        return ImageVideo(
            name=image["file_name"],
            path=self._path(image_id),
            height=height,
            width=width,
            annotations=self.annotations[image_id],
            categories=self._categories(self.annotations[image_id]),
            where=str(self.annotation_file),
        )


def _images_of_splits(refs_file: Path, splits: Sequence[str]) -> set[int]:
    refs = load_plain_pickle(refs_file)
    places = [f"{refs_file}, ref {number}" for number in range(len(refs))]
    ref_splits = [field(ref, "split", where) for ref, where in zip(refs, places, strict=True)]
    unknown = [split for split in splits if split not in ref_splits]
    if unknown:
        raise ValueError(f"{refs_file}: no split {unknown}; it has {sorted(set(ref_splits))}")
    return {
        int(field(ref, "image_id", where))
        for ref, split, where in zip(refs, ref_splits, places, strict=True)
        if split in splits
    }
