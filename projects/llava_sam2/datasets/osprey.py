"""Osprey-724K: ``[{file_name, height, width, annotation: [{bbox, segmentation}], ...}, ...]``.

    osprey_conversation, _short_form, _part_level,     conversations: [{from, value}, ...], which
    _lvis_positive_negative                            speak of <region1>, <region2>, ...
    osprey_detail_description                          description: ["<region1>: ...", ...]

Osprey: Yuan et al., CVPR 2024.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from projects.llava_sam2.datasets.fields import wrong_field
from projects.llava_sam2.datasets.image_files import FolderFiles
from projects.llava_sam2.datasets.llava_json import turns_of
from projects.llava_sam2.datasets.records import Numbered, RowErrors, collect, numbered
from projects.llava_sam2.datasets.regions import RegionRow
from projects.llava_sam2.datasets.rows import Row, StillMask, tracks_read

_FIELDS = {
    "file_name": "text",
    "height": "a number of pixels",
    "width": "a number of pixels",
    "annotation": "a list of objects",
}
_REGION = re.compile(r"<(region\d+)>")
_LABEL = re.compile(r"\s*<region\d+>\s*:?\s*")


def osprey_rows(
    *,
    file: str | Path,
    image_root: str | Path,
    strip_prefix: bool = False,
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[RegionRow]:
    """One row per record; descriptions become one turn a region, with the question left open.

    Args:
        file: one of the released jsons.
        image_root: folder of the images (COCO train2017).
        strip_prefix: look for ``000000123456.jpg`` where the file says
            ``COCO_train2014_000000123456.jpg``, as some of the jsons do.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many records.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file, images = Path(file), FolderFiles(image_root)

    def make(name: str, numbered: Numbered, errors: RowErrors) -> RegionRow | str:
        return _row(numbered, file, images, strip_prefix)

    return collect(numbered(file), make, file=file, on_bad_row=on_bad_row, limit=limit)


def _row(
    numbered: Numbered, file: Path, images: FolderFiles, strip_prefix: bool
) -> RegionRow | str:
    """A record's row, or what is wrong with it."""
    number, record = numbered
    problem = wrong_field(record, _FIELDS)
    if problem is not None:
        return f"it {problem}"
    name = record["file_name"].rsplit("_", 1)[-1] if strip_prefix else record["file_name"]
    path, problem = images.find(name)
    if problem is not None:
        return problem
    size = (record["height"], record["width"])
    where = f"{file} record {number}"
    objects = tuple(
        StillMask(entry.get("segmentation"), *size, where=f"{where} annotation {k}")
        for k, entry in enumerate(record["annotation"])
    )
    if not objects:
        return "it has no region"
    for k in range(len(objects)):
        problem = tracks_read([k], objects, frames=1)
        if problem is not None:
            return f"region{k + 1}: {problem}"
    turns = _turns(record, len(objects))
    if isinstance(turns, str):
        return turns
    return RegionRow(Row(f"{file.name}[{number}]", path, None, size, objects, ()), turns)


def _turns(record: dict[str, Any], regions: int) -> tuple[tuple[str | None, str], ...] | str:
    if record.get("conversations"):
        turns = turns_of(record["conversations"])
        if isinstance(turns, str):
            return turns
        named = [int(n) for turn in turns for text in turn for n in _numbers(text)]
        if named and not 1 <= min(named) <= max(named) <= regions:
            return f"it speaks of region{max(named)}, but has {regions} regions"
        return tuple((_plain(question), _plain(answer)) for question, answer in turns)
    described = record.get("description") or record.get("descriptions")
    if not isinstance(described, list) or not all(isinstance(text, str) for text in described):
        return "it needs 'conversations' or 'description', a list of texts"
    if len(described) != regions:
        return f"{len(described)} descriptions but {regions} regions"
    answers = [_plain(_LABEL.sub("", text, count=1)).strip() for text in described]
    if not all(answers):
        return "an empty description"
    return tuple((None, answer) for answer in answers)


def _numbers(text: str) -> list[str]:
    return re.findall(r"<region(\d+)>", text)


def _plain(text: str) -> str:
    """Regions by name, without the brackets: "<region1>" stands for no token."""
    return _REGION.sub(r"\1", text)
