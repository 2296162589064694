"""SA-1B: ``sa_<n>.jpg`` beside ``sa_<n>.json``, as videos of one frame."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import decode_rle, rle_area
from projects.common.video import IMAGE_SUFFIXES, read_image
from projects.sam2_video.data.coco_json import field, number, read_json
from projects.sam2_video.data.sources import (
    ListPaths,
    choose_names,
    files_by_stem,
    require_all,
)


class Sa1bImage:
    """One image; objects are numbered as in ``annotations``, those that are left out skipped."""

    num_frames = 1

    def __init__(self, *, name: str, path: Path, json_path: Path, filters: MaskFilters) -> None:
        self.name = name
        self.path = path
        self.json_path = json_path
        self.rles = self._read(filters)

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        image = read_image(self.path)
        return np.stack([image for _ in indices])

    def visible_objects(self, index: int) -> list[int]:
        return [key for key, rle in self.rles.items() if rle_area(rle, where=self._where(key))]

    def read_masks(
        self, index: int, objects: Collection[int] | None = None
    ) -> dict[int, np.ndarray]:
        wanted = self.rles if objects is None else [key for key in self.rles if key in objects]
        return {key: decode_rle(self.rles[key], where=self._where(key)) for key in wanted}

    def _where(self, key: int) -> str:
        return f"{self.json_path}, annotations[{key}]"

    def _read(self, filters: MaskFilters) -> dict[int, Any]:
        record = read_json(self.json_path)
        annotations = record.get("annotations") if isinstance(record, dict) else None
        if not isinstance(annotations, list):
            raise ValueError(f"{self.json_path}: no list 'annotations'; is it a SA-1B annotation?")
        kept = [key for key, e in enumerate(annotations) if filters.keep(e, self._where(key))]
        if filters.max_masks is not None:
            # the largest ones; Python's sort keeps the file's order among equals
            largest = sorted(kept, key=lambda key: -annotations[key]["area"])
            kept = sorted(largest[: filters.max_masks])
        return {key: field(annotations[key], "segmentation", self._where(key)) for key in kept}


class MaskFilters:
    """Which masks of an image are objects."""

    def __init__(
        self,
        *,
        min_area: int,
        max_area_share: float | None,
        min_iou: float | None,
        min_stability: float | None,
        max_masks: int | None,
    ) -> None:
        self.min_area = min_area
        self.max_area_share = max_area_share
        self.min_iou = min_iou
        self.min_stability = min_stability
        self.max_masks = max_masks

    def keep(self, entry: Any, where: str) -> bool:
        """Whether an annotation passes; only fields that are asked about must be there."""
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: not a record; is it a SA-1B annotation?")
        area = number(entry, "area", where)
        if area < self.min_area:
            return False
        if self.max_area_share is not None:
            height, width = _size_of_rle(entry, where)
            if area > self.max_area_share * height * width:
                return False
        limits = (("predicted_iou", self.min_iou), ("stability_score", self.min_stability))
        return all(
            least is None or number(entry, key, where, "drop the filter or add it") >= least
            for key, least in limits
        )


class Sa1bSource:
    """Images of SA-1B.

    Args:
        image_root: holds the images.
        annotation_root: holds ``<name>.json``; by default beside the images.
        list_file: names (suffix or not), one a line; by default every image that has a json.
        exclude_file: names that are left out; one file or several.
        min_area: pixels of the smallest mask.
        max_area_share: leave out masks that cover more than this share of the image (Meta's
            ``mask_area_frac_thresh``), such as the whole background.
        min_iou, min_stability: least ``predicted_iou`` and ``stability_score``.
        max_masks: the largest n masks of an image.
    """

    def __init__(
        self,
        *,
        image_root: str | Path,
        annotation_root: str | Path | None = None,
        list_file: str | Path | None = None,
        exclude_file: ListPaths | None = None,
        min_area: int = 1,
        max_area_share: float | None = None,
        min_iou: float | None = None,
        min_stability: float | None = None,
        max_masks: int | None = None,
    ) -> None:
        self.image_root = Path(image_root)
        self.annotation_root = Path(annotation_root or image_root)
        self.filters = MaskFilters(
            min_area=max(min_area, 1),
            max_area_share=max_area_share,
            min_iou=min_iou,
            min_stability=min_stability,
            max_masks=max_masks,
        )
        images = files_by_stem(self.image_root, IMAGE_SUFFIXES)
        records = files_by_stem(self.annotation_root, (".json",))
        self.names = choose_names(
            set(images) & set(records),
            list_file=list_file,
            exclude_file=exclude_file,
            where=f"images of {self.image_root} with a json in {self.annotation_root}",
        )
        missing = [str(self.image_root / name) for name in self.names if name not in images]
        missing += [
            f"{self.annotation_root / name}.json" for name in self.names if name not in records
        ]
        require_all(missing, "images or annotations", "download them or correct the file list")
        self.images = {name: images[name] for name in self.names}
        self.records = {name: records[name] for name in self.names}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sa1bImage:
        name = self.names[index]
        return Sa1bImage(
            name=name, path=self.images[name], json_path=self.records[name], filters=self.filters
        )


def _size_of_rle(entry: dict[str, Any], where: str) -> tuple[int, int]:
    segmentation = field(entry, "segmentation", where)
    if not isinstance(segmentation, dict) or len(segmentation.get("size") or ()) != 2:
        raise ValueError(f"{where}: the segmentation is no RLE with its size; is it SA-1B's?")
    return segmentation["size"]
