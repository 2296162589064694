"""A COCO json: its lists, and fields that are asked for by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.masks import decode_segmentation, rle_area
from projects.sam2_video.data.sources import inside

Entry = dict[str, Any]


def read_coco(path: Path) -> tuple[dict[int, Entry], list[Entry]]:
    """Images by id, and annotations, each known to belong to one of the images.

    Raises:
        FileNotFoundError, ValueError: missing, no json, no COCO file, or a record without its key.
    """
    record = read_json(path)
    missing = [key for key in ("images", "annotations") if not _is_list_of_dicts(record, key)]
    if missing:
        raise ValueError(f"{path}: no list {missing}; is it a COCO instances file?")
    images = {}
    for number, image in enumerate(record["images"]):
        where = f"{path}, images[{number}]"
        key = field(image, "id", where)
        inside(path.parent, str(field(image, "file_name", where)), where)
        if key in images:
            raise ValueError(f"{where}: two images have the id {key}")
        images[key] = image
    for number, entry in enumerate(record["annotations"]):
        where = f"{path}, annotations[{number}]"
        key, image_id = field(entry, "id", where), field(entry, "image_id", where)
        if image_id not in images:
            raise ValueError(
                f"{path}: annotation {key} is of image {image_id}, which is not listed under "
                "'images'"
            )
    return images, record["annotations"]


def read_json(path: Path) -> Any:
    """The content of a json file; raises FileNotFoundError or ValueError with its name."""
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid json ({error}); download it again") from error


def field(record: Mapping[str, Any], key: str, where: str, mend: str = "add it") -> Any:
    """``record[key]``; a ValueError with place, key and mend where it is missing."""
    if record.get(key) is None:
        raise ValueError(f"{where}: no {key!r}; {mend}")
    return record[key]


def number(record: Mapping[str, Any], key: str, where: str, mend: str = "add it") -> float:
    """``record[key]``, which must be a number."""
    value = field(record, key, where, mend)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: {key} {value!r} is no number")
    return value


def size_of(image: Entry, where: str) -> tuple[int, int]:
    """(height, width) of an image's record."""
    mend = "polygons cannot be drawn without the size of their image, add height and width"
    return int(number(image, "height", where, mend)), int(number(image, "width", where, mend))


def decode_entries(
    entries: Mapping[int, Entry], size: tuple[int, int], *, where: str
) -> dict[int, np.ndarray]:
    """Masks of annotations, bool [H, W] each, under the same keys."""
    return {key: _decode(entry, size, where) for key, entry in entries.items()}


def visible_entries(
    entries: Mapping[int, Entry], size: tuple[int, int], *, where: str
) -> list[int]:
    """Keys of the annotations that have pixels, ascending; RLE are not drawn for that."""
    return sorted(key for key, entry in entries.items() if _has_pixels(entry, size, where))


def _has_pixels(entry: Entry, size: tuple[int, int], where: str) -> bool:
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, Mapping):
        return rle_area(segmentation, where=f"{where}, annotation {entry['id']}") > 0
    return bool(_decode(entry, size, where).any())


def _decode(entry: Entry, size: tuple[int, int], where: str) -> np.ndarray:
    place = f"{where}, annotation {entry['id']}"
    if not entry.get("segmentation"):
        raise ValueError(
            f"{place}: no segmentation (a box is not enough); draw it, or take the annotation out"
        )
    return decode_segmentation(entry["segmentation"], *size, where=place)


def select(entries: Mapping[int, Entry], objects: Iterable[int] | None) -> dict[int, Entry]:
    """The entries of ``objects``, or all."""
    return {key: entries[key] for key in entries if objects is None or key in set(objects)}


def _is_list_of_dicts(record: Any, key: str) -> bool:
    values = record.get(key) if isinstance(record, dict) else None
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)
