"""Grounded captions in the files that GLaMM released (GranD-f).

    RefCOCOg_GCG_*.json         [{id: {img_file_name, caption, refs: [{sentence, segmentation}]}}]
    GranDf_HA_GCG_*.json,       [{file_name, caption,
    OpenPsgGCG_*.json             groundings: {phrase: {token_positives: [start, end], rle_masks}}}]
    flickr_mergedGT_GCG_*.json  COCO: images with captions, annotations with tokens_positive
                                [[start, end]] and sam_mask

Positions count characters of the caption without quotes and spaces around it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from projects.common.video import image_size
from projects.llava_sam2.datasets.fields import wrong_field
from projects.llava_sam2.datasets.grounded_captions import CaptionRow, Span
from projects.llava_sam2.datasets.image_files import FolderFiles
from projects.llava_sam2.datasets.records import (
    RowErrors,
    collect,
    load_json,
    numbered,
)
from projects.llava_sam2.datasets.rows import (
    Expression,
    Row,
    StillMask,
    tracks_read,
)

_REFCOCOG_FIELDS = {"img_file_name": "text", "caption": "text", "refs": "a list of objects"}
_GRANDF_FIELDS = {"file_name": "text", "caption": "text", "groundings": "an object"}
_FLICKR_FILE = {"images": "a list", "annotations": "a list of objects"}
_FLICKR_FIELDS = {"id": "an id", "file_name": "text", "caption": "text"}


class _Phrase(NamedTuple):
    """A phrase of a caption: where it stands, and COCO segmentations whose union it names."""

    span: Span | None  # None: the caption does not hold it
    text: str
    segmentations: list[Any]


@dataclass(frozen=True)
class _Record:
    """One caption as a file has it, whichever file."""

    name: str
    file_name: Any
    caption: str
    phrases: list[_Phrase]


_Named = tuple[str, _Record | str]  # what errors call a record; it, or what is wrong with it


def refcocog_gcg_rows(
    *,
    file: str | Path,
    image_root: str | Path,
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[CaptionRow]:
    """Captions of ``RefCOCOg_GCG_{train,val}.json``; images in ``coco2014/train2014``.

    Phrases are looked up in the caption, whatever their case. Where phrases overlap, the earlier
    ends where the later begins, as in GLaMM; one that nothing is left of is a bad record.

    Args:
        file: the json.
        image_root: folder of the images.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count. A bad
            phrase leaves its caption, a caption without a phrase leaves the data.
        limit: keep the first so many captions.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    return _rows(file, image_root, on_bad_row, limit, _refcocog_records)


def grandf_rows(
    *,
    file: str | Path,
    image_root: str | Path,
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[CaptionRow]:
    """Captions of ``GranDf_HA_GCG_train.json`` and of ``OpenPsgGCG_{train,val}.json``.

    A phrase whose grounding is null has no mask and stays plain text. Arguments and errors as of
    :func:`refcocog_gcg_rows`.
    """
    return _rows(file, image_root, on_bad_row, limit, _grandf_records)


def flickr_gcg_rows(
    *,
    file: str | Path,
    image_root: str | Path,
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[CaptionRow]:
    """Captions of ``flickr_mergedGT_GCG_{train,val}.json``; images of Flickr30k.

    Annotations of one phrase ("two men") make one mask. Those to be ignored are. Arguments and
    errors as of :func:`refcocog_gcg_rows`.
    """
    return _rows(file, image_root, on_bad_row, limit, _flickr_records)


# ---- the three kinds of file ----------------------------------------------------------------


def _refcocog_records(file: Path) -> Iterator[_Named]:
    for name, (_, entry) in numbered(file):
        if not isinstance(entry, dict) or len(entry) != 1:
            yield name, "expected an object with one key, the caption's id"
            continue
        ((key, content),) = entry.items()
        name = f"caption {key}"
        problem = wrong_field(content, _REFCOCOG_FIELDS)
        if problem is not None:
            yield name, f"it {problem}"
            continue
        caption = _clean(content["caption"])
        phrases, taken = [], set()
        for ref in content["refs"]:
            text = str(ref.get("sentence", "")).strip()
            span = _find(caption, text, taken)
            taken.add(span)
            phrases.append(_Phrase(span, text, [ref.get("segmentation")]))
        yield name, _Record(name, content["img_file_name"], caption, phrases)


def _grandf_records(file: Path) -> Iterator[_Named]:
    for name, (_, entry) in numbered(file):
        problem = wrong_field(entry, _GRANDF_FIELDS)
        if problem is not None:
            yield name, f"it {problem}"
            continue
        caption = _clean(entry["caption"])
        phrases = [
            _grandf_phrase(caption, text, grounding)
            for text, grounding in entry["groundings"].items()
            if grounding is not None
        ]
        yield name, _Record(name, entry["file_name"], caption, phrases)


def _grandf_phrase(caption: str, text: str, grounding: Any) -> _Phrase:
    if not isinstance(grounding, dict):
        return _Phrase(None, text, [])
    masks = grounding.get("rle_masks")
    span = _span(grounding.get("token_positives"), caption)
    return _Phrase(span, text, masks if isinstance(masks, list) else [])


def _flickr_records(file: Path) -> Iterator[_Named]:
    data = load_json(file)
    problem = wrong_field(data, _FLICKR_FILE)
    if problem is not None:
        raise ValueError(f"{file}: it {problem}")
    annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in data["annotations"]:
        if not annotation.get("ignore", False):
            annotations[str(annotation.get("image_id"))].append(annotation)
    for number, image in enumerate(data["images"]):
        problem = wrong_field(image, _FLICKR_FIELDS)
        if problem is not None:
            yield f"images[{number}]", f"it {problem}"
            continue
        caption = _clean(image["caption"])
        phrases = []
        for annotation in annotations[str(image["id"])]:
            positions = annotation.get("tokens_positive")
            span = _span(
                positions[0] if isinstance(positions, list) and positions else None, caption
            )
            text = f"annotation {annotation.get('id')}" if span is None else caption[slice(*span)]
            phrases.append(_Phrase(span, text, [annotation.get("sam_mask")]))
        name = f"image {image['id']}"
        yield name, _Record(name, image["file_name"], caption, phrases)


# ---- from records to rows -------------------------------------------------------------------


def _rows(
    file: str | Path,
    image_root: str | Path,
    on_bad_row: str,
    limit: int | None,
    records: Callable[[Path], Iterator[_Named]],
) -> Sequence[CaptionRow]:
    file, images = Path(file), FolderFiles(image_root)

    def make(name: str, record: _Record | str, errors: RowErrors) -> CaptionRow | str | None:
        return record if isinstance(record, str) else _row(record, file, images, errors)

    return collect(records(file), make, file=file, on_bad_row=on_bad_row, limit=limit)


def _row(
    record: _Record, file: Path, images: FolderFiles, errors: RowErrors
) -> CaptionRow | str | None:
    path, problem = images.find(record.file_name)
    if problem is not None:
        return problem
    try:
        size = _size(record, path)
    except ValueError as error:
        return str(error)
    objects: list[StillMask] = []
    grounded: dict[Span, list[int]] = defaultdict(list)
    for phrase in record.phrases:
        where = f"{file} {record.name} phrase {phrase.text!r}"
        masks = [StillMask(part, *size, where=where) for part in phrase.segmentations]
        problem = _problem(phrase, masks)
        if problem is not None or phrase.span is None:
            errors.add(f"{record.name} phrase {phrase.text!r}", problem or "")
            continue
        grounded[phrase.span] += range(len(objects), len(objects) + len(masks))
        objects += masks
    spans = _cut_overlaps(sorted(grounded), record, errors)
    if not spans:
        return "none of its phrases can be grounded"
    expressions = tuple(
        Expression(record.caption[start:end], tuple(grounded[span]), f"{record.name}/{start}")
        for span, (start, end) in spans.items()
    )
    row = Row(f"{file.name} {record.name}", path, None, size, tuple(objects), expressions)
    return CaptionRow(row, record.caption, tuple(spans.values()))


def _size(record: _Record, path: Path) -> tuple[int, int]:
    """Height and width as the RLEs say, else of the image: to open each of them takes long."""
    for phrase in record.phrases:
        for segmentation in phrase.segmentations:
            size = segmentation.get("size") if isinstance(segmentation, dict) else None
            if isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size):
                return size[0], size[1]
    return image_size(path)


def _problem(phrase: _Phrase, masks: list[StillMask]) -> str | None:
    if phrase.span is None:
        return "it is not in the caption"
    if not masks:
        return "it has no mask"
    return tracks_read(range(len(masks)), masks, frames=1)


def _cut_overlaps(spans: list[Span], record: _Record, errors: RowErrors) -> dict[Span, Span]:
    """Each span to what is left of it; an earlier one ends where the next begins."""
    cut: dict[Span, Span] = {}
    for number, (start, end) in enumerate(spans):
        following = spans[number + 1][0] if number + 1 < len(spans) else end
        end = min(end, following)
        end = start + len(record.caption[start:end].rstrip())
        if end > start:
            cut[spans[number]] = (start, end)
        else:
            text = record.caption[slice(*spans[number])]
            errors.add(f"{record.name} phrase {text!r}", "another phrase begins at its place")
    return cut


def _find(caption: str, phrase: str, taken: set[Span | None]) -> Span | None:
    """Where a phrase stands, whatever its case; the next place if that one is taken."""
    start = caption.lower().find(phrase.lower()) if phrase else -1
    while start >= 0 and (start, start + len(phrase)) in taken:
        following = caption.lower().find(phrase.lower(), start + 1)
        if following < 0:
            break  # said once, drawn twice: one phrase for both
        start = following
    return None if start < 0 else (start, start + len(phrase))


def _span(positions: Any, caption: str) -> Span | None:
    """``[start, end]`` as a span within the caption that holds words, or None."""
    if not isinstance(positions, list) or len(positions) != 2:
        return None
    start, end = positions
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(caption)):
        return None
    return (start, end) if caption[start:end].strip() else None


def _clean(caption: str) -> str:
    return caption.strip('"').strip()
