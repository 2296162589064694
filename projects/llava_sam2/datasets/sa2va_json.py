"""Sa2VA's fine-tune json: ``[{"image", "mask": [object, ...], "text": [expression, ...]}, ...]``.

The k-th text names the k-th object: a list of polygons in pixels, or an RLE. A text may be a list
of several expressions for the same object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from projects.common.video import image_size
from projects.llava_sam2.datasets.fields import wrong_field
from projects.llava_sam2.datasets.image_files import file_inside
from projects.llava_sam2.datasets.rows import (
    Expression,
    Row,
    RowErrors,
    StillMask,
    load_json,
    tracks_read,
)


def sa2va_rows(
    *,
    file: str | Path,
    image_root: str | Path,
    on_bad_row: str = "error",
    limit: int | None = None,
) -> list[Row]:
    """One row per record, with all its expressions.

    Args:
        file: the json.
        image_root: folder of the images.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many records.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    file = Path(file)
    records = load_json(file)
    if not isinstance(records, list):
        raise ValueError(f"{file}: expected a list of records, found {type(records).__name__}")
    errors = RowErrors(file, on_bad_row)
    rows = []
    for number, record in enumerate(records[:limit]):
        problem = _bad_record(record)
        if problem is None:
            path, problem = file_inside(Path(image_root), record["image"])
        if problem is not None:
            errors.add(f"record {number}", problem)
            continue
        try:
            size = image_size(path)
        except ValueError as error:
            errors.add(f"record {number}", str(error))
            continue
        row = _row(record, path, size, f"{file} record {number}", errors, number)
        if row.expressions:
            rows.append(row)
    errors.finish(rows)
    return rows


def _row(
    record: dict[str, Any],
    path: Path,
    size: tuple[int, int],
    where: str,
    errors: RowErrors,
    number: int,
) -> Row:
    objects = tuple(
        StillMask(_polygons(mask), *size, where=f"{where} mask {k}")
        for k, mask in enumerate(record["mask"])
    )
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
    return Row(record["image"], path, None, size, objects, tuple(expressions))


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
