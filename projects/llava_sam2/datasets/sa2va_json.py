"""Sa2VA's fine-tune json: ``[{"image", "mask": [object, ...], "text": [expression, ...]}, ...]``.

The k-th text names the k-th object: a list of polygons in pixels, or an RLE. A text may be a list
of several expressions for the same object.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from projects.common.video import image_size
from projects.llava_sam2.datasets.fields import wrong_field
from projects.llava_sam2.datasets.image_files import FolderFiles
from projects.llava_sam2.datasets.records import Numbered, RowErrors, collect, numbered
from projects.llava_sam2.datasets.rows import (
    Expression,
    Row,
    StillMask,
    tracks_read,
)


def sa2va_rows(
    *,
    file: str | Path,
    image_root: str | Path,
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[Row]:
    """One row per record, with all its expressions.

    Args:
        file: the json.
        image_root: folder of the images.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many records.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file, images = Path(file), FolderFiles(image_root)

    def make(name: str, numbered: Numbered, errors: RowErrors) -> Row | str | None:
        return _row(numbered, file, images, errors)

    return collect(numbered(file), make, file=file, on_bad_row=on_bad_row, limit=limit)


def _row(
    numbered: Numbered, file: Path, images: FolderFiles, errors: RowErrors
) -> Row | str | None:
    """A record's row, what is wrong with it, or None where no expression of it is usable."""
    number, record = numbered
    problem = _bad_record(record)
    if problem is not None:
        return problem
    path, problem = images.find(record["image"])
    if problem is not None:
        return problem
    try:
        size = image_size(path)
    except ValueError as error:
        return str(error)
    objects = tuple(
        StillMask(_polygons(mask), *size, where=f"{file} record {number} mask {k}")
        for k, mask in enumerate(record["mask"])
    )
    expressions = _expressions(numbered, objects, errors)
    return Row(record["image"], path, None, size, objects, expressions) if expressions else None


def _expressions(
    numbered: Numbered, objects: tuple[StillMask, ...], errors: RowErrors
) -> tuple[Expression, ...]:
    number, record = numbered
    expressions = []
    for k, text in enumerate(record["text"]):
        problem = tracks_read([k], objects, frames=1)
        if problem is not None:
            errors.add(f"record {number} mask {k}", problem)
            continue
        for variant, words in enumerate(text if isinstance(text, list) else [text]):
            if isinstance(words, str) and words.strip():
                key = f"{number}/{k}/{variant}"
                expressions.append(Expression(words.strip(), (k,), key))
            else:
                errors.add(f"record {number} text {k}", "empty expression")
    return tuple(expressions)


def _polygons(mask: Any) -> Any:
    """A single polygon without a list around it is one too."""
    flat = isinstance(mask, list) and bool(mask) and not isinstance(mask[0], list)
    return [mask] if flat else mask


def _bad_record(record: Any) -> str | None:
    problem = wrong_field(record, {"image": "text", "mask": "a list", "text": "a list"})
    if problem is not None:
        return f"it {problem}"
    masks, texts = record["mask"], record["text"]
    if len(masks) != len(texts):
        return f"{len(masks)} masks but {len(texts)} texts"
    return None if masks else "it has no object"
