"""Images with instance masks in COCO's json, as videos of one frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import decode_segmentation
from projects.common.plain_pickle import load_plain_pickle
from projects.common.video import read_image
from projects.sam2_video.data.sources import require_all


class ImageVideo:
    """One image; objects are annotation ids."""

    num_frames = 1

    def __init__(
        self, *, name: str, path: Path, height: int, width: int, annotations: list[dict], where: str
    ) -> None:
        self.name = name
        self.path = path
        self.height = height
        self.width = width
        self.annotations = annotations
        self.where = where

    def read_frames(self, indices: Sequence[int]) -> np.ndarray:
        image = read_image(self.path)
        return np.stack([image for _ in indices])

    def read_masks(self, index: int) -> dict[int, np.ndarray]:
        return {
            int(entry["id"]): decode_segmentation(
                entry.get("segmentation"),
                self.height,
                self.width,
                where=f"{self.where}, annotation {entry['id']}",
            )
            for entry in self.annotations
        }


class CocoImageSource:
    """Images of a COCO instances json that have at least one annotation.

    Args:
        annotation_file: ``instances.json`` (``images``, ``annotations``).
        image_root: the folder of the images' ``file_name``.
        refs_file: ``refs(unc).p`` of RefCOCO; keeps only images of the ``splits``, so that images
            held out for evaluation are not trained on.
        splits: names of splits in ``refs_file``.
        include_crowd: whether annotations with ``iscrowd`` count as objects.
    """

    def __init__(
        self,
        *,
        annotation_file: str | Path,
        image_root: str | Path,
        refs_file: str | Path | None = None,
        splits: Sequence[str] = ("train",),
        include_crowd: bool = False,
    ) -> None:
        self.annotation_file = Path(annotation_file)
        self.image_root = Path(image_root)
        record = _read_json(self.annotation_file)
        self.images = {int(image["id"]): image for image in record["images"]}
        self.annotations: dict[int, list[dict[str, Any]]] = {}
        for entry in record["annotations"]:
            if entry.get("iscrowd") and not include_crowd:
                continue
            image_id = int(entry["image_id"])
            if image_id not in self.images:
                raise ValueError(
                    f"{self.annotation_file}: annotation {entry['id']} is of image {image_id}, "
                    "which is not listed under 'images'"
                )
            self.annotations.setdefault(image_id, []).append(entry)
        wanted = None if refs_file is None else _images_of_splits(Path(refs_file), splits)
        self.image_ids = [
            key for key in sorted(self.annotations) if wanted is None or key in wanted
        ]
        if not self.image_ids:
            raise ValueError(f"{self.annotation_file}: no annotated image of the splits {splits}")
        paths = [self._path(image_id) for image_id in self.image_ids]
        require_all([str(path) for path in paths if not path.is_file()], "images", "download them")

    def _path(self, image_id: int) -> Path:
        return self.image_root / self.images[image_id]["file_name"]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> ImageVideo:
        image_id = self.image_ids[index]
        image = self.images[image_id]
        return ImageVideo(
            name=image["file_name"],
            path=self._path(image_id),
            height=int(image["height"]),
            width=int(image["width"]),
            annotations=self.annotations[image_id],
            where=str(self.annotation_file),
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} does not exist")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid json ({error})") from error
    missing = [key for key in ("images", "annotations") if key not in record]
    if missing:
        raise ValueError(f"{path}: no {missing}; is it a COCO instances file?")
    return record


def _images_of_splits(refs_file: Path, splits: Sequence[str]) -> set[int]:
    refs = load_plain_pickle(refs_file)
    known = {ref["split"] for ref in refs}
    unknown = [split for split in splits if split not in known]
    if unknown:
        raise ValueError(f"{refs_file}: no split {unknown}; it has {sorted(known)}")
    return {int(ref["image_id"]) for ref in refs if ref["split"] in splits}
