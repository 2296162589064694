"""Grounded captions in the three kinds of file that GLaMM released (GranD-f)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from projects.common.masks import decode_segmentation, encode_rle
from projects.toy_world.layouts.files import Records, write_json
from projects.toy_world.layouts.refcoco import ImageRecord, image_entry
from projects.toy_world.phrases import COUNT_WORDS
from projects.toy_world.retold.pictures import copy_images, describe, listed, told_images
from projects.toy_world.world import World


def write(world: World, records: Mapping[str, Records], root: Path) -> None:
    images = told_images(records, "train")
    folder = root / "glamm_data"
    for name in ("coco2014/train2014", "flickr30k", "coco2017", "grandf/train"):
        copy_images(root, folder / "images" / name, images)
    files = {
        "RefCOCOg_GCG_train.json": [_refcocog(image) for image in images],
        "GranDf_HA_GCG_train.json": [_grandf(image, world.side) for image in images],
        "OpenPsgGCG_train.json": [_grandf(image, world.side) for image in images[::2]],
        "flickr_mergedGT_GCG_train.json": _flickr(images, world.side),
    }
    for name, content in files.items():
        write_json(folder / "annotations" / name, content)


def _things(image: ImageRecord) -> list[tuple[str, dict[str, Any]]]:
    """What each thing is called, and its annotation."""
    annotations = image.annotations[: len(image.looks)]
    return [(describe(look), a) for look, a in zip(image.looks, annotations, strict=True)]


def _caption(image: ImageRecord) -> str:
    return f"there is {listed([describe(look) for look in image.looks])} in the image ."


def _rle(annotation: dict[str, Any], side: int) -> dict[str, Any]:
    segmentation = annotation["segmentation"]
    return encode_rle(decode_segmentation(segmentation, side, side, where="toy world"))


def _refcocog(image: ImageRecord) -> dict[str, Any]:
    """Captions are in quotes and upper and lower case, phrases are not; as released."""
    refs = [
        {"sentence": phrase, "segmentation": annotation["segmentation"], "bbox": annotation["bbox"]}
        for phrase, annotation in _things(image)
    ]
    return {
        str(image.image_id): {
            "img_file_name": image.file_name,
            "caption": f'"{_caption(image).capitalize()}"',
            "refs": refs,
        }
    }


def _grandf(image: ImageRecord, side: int) -> dict[str, Any]:
    caption = _caption(image)
    groundings: dict[str, Any] = {}
    for phrase, annotation in _things(image):
        start = caption.index(phrase)
        groundings[phrase] = {
            "token_positives": [start, start + len(phrase)],
            "bbox": annotation["bbox"],
            "rle_masks": [_rle(annotation, side)],
        }
    return {
        "file_name": image.file_name,
        "image_id": str(image.image_id),
        "caption": caption,
        "groundings": groundings,
    }


def _flickr(images: Sequence[ImageRecord], side: int) -> dict[str, Any]:
    """Things of one shape share a phrase: "two circles" has two annotations."""
    entries, annotations = [], []
    for image in images:
        by_shape: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for look, annotation in zip(image.looks, image.annotations, strict=False):
            by_shape[look.shape].append(annotation)
        phrases = {
            shape: f"a {shape}" if len(group) == 1 else f"{COUNT_WORDS[len(group)]} {shape}s"
            for shape, group in by_shape.items()
        }
        caption = f"I see {listed(list(phrases.values()))} ."
        entries.append({**image_entry(image.image_id, side), "caption": caption})
        for shape, group in by_shape.items():
            start = caption.index(phrases[shape])
            for annotation in group:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image.image_id,
                        "bbox": annotation["bbox"],
                        "area": annotation["area"],
                        "iscrowd": 0,
                        "category_id": 1,
                        "tokens_positive": [[start, start + len(phrases[shape])]],
                        "sam_mask": _rle(annotation, side),
                    }
                )
    return {"images": entries, "annotations": annotations, "categories": [{"id": 1, "name": "it"}]}
