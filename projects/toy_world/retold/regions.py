"""Regions and what is said of them, in the files of Osprey-724K."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projects.toy_world.layouts.files import Records, write_json
from projects.toy_world.layouts.refcoco import ImageRecord
from projects.toy_world.retold.pictures import copy_images, describe, told_images
from projects.toy_world.world import World


def write(world: World, records: Mapping[str, Records], root: Path) -> None:
    images = told_images(records, "train")
    folder = root / "osprey-724k"
    copy_images(root, folder / "coco", images)
    files = {
        "osprey_conversation": [
            _entry(image, world.side, conversations=_conversation(image)) for image in images
        ],
        "osprey_short_form": [
            _entry(image, world.side, conversations=_short(image)) for image in images
        ],
        "osprey_detail_description": [
            _entry(image, world.side, description=_descriptions(image)) for image in images
        ],
    }
    for name, content in files.items():
        write_json(folder / "Osprey-724K" / f"{name}.json", content)


def _entry(image: ImageRecord, side: int, **said: Any) -> dict[str, Any]:
    regions = [
        {"bbox": annotation["bbox"], "segmentation": annotation["segmentation"]}
        for annotation in image.annotations[: len(image.looks)]
    ]
    size = {"height": side, "width": side}
    return {
        "id": image.image_id,
        "file_name": image.file_name,
        **size,
        "annotation": regions,
        **said,
    }


def _conversation(image: ImageRecord) -> list[dict[str, str]]:
    turns = []
    for number, look in enumerate(image.looks, start=1):
        turns += [
            {"from": "human", "value": f"what is <region{number}> ?"},
            {"from": "gpt", "value": f"<region{number}> is {describe(look)} ."},
        ]
    return turns


def _short(image: ImageRecord) -> list[dict[str, str]]:
    last = len(image.looks)
    return [
        {"from": "human", "value": f"what shape is <region{last}> ?"},
        {"from": "gpt", "value": image.looks[-1].shape},
    ]


def _descriptions(image: ImageRecord) -> list[str]:
    return [
        f"<region{number}>: there is {describe(look)} in the image ."
        for number, look in enumerate(image.looks, start=1)
    ]
