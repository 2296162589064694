"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: ``instances.json`` (COCO) beside a file of refs.

    RefCOCO, +, g   refs(unc|umd|google).p   pickled; a ref names one annotation
    gRefCOCO        grefs(unc).json          a ref names any number of them: "ann_id": [1, 2], and
                                             [-1] with "no_target": true where nothing is meant

gRefCOCO is from GRES (Liu et al., 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from projects.common.plain_pickle import load_plain_pickle
from projects.llava_sam2.datasets.fields import wrong_field
from projects.llava_sam2.datasets.image_files import FolderFiles
from projects.llava_sam2.datasets.records import RowErrors, collect, load_json
from projects.llava_sam2.datasets.rows import (
    Expression,
    Row,
    StillMask,
    tracks_read,
)

_REF_FIELDS = {
    "ref_id": "an id",
    "ann_id": "an id or a list of ids",
    "image_id": "an id",
    "split": "text",
    "sentences": "a list",
}
_SENTENCE_FIELDS = {"sent_id": "an id", "sent": "text"}
_SIZE = "a number of pixels"
_INSTANCE_FIELDS = {
    "images": {"id": "an id", "file_name": "text", "height": _SIZE, "width": _SIZE},
    "annotations": {"id": "an id", "image_id": "an id", "segmentation": "anything"},
}
_NOTHING = [-1]


def refcoco_rows(
    *,
    root: str | Path,
    image_root: str | Path,
    split: str,
    split_by: str = "unc",
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[Row]:
    """One row per image of a split, with all sentences of all its refs.

    Args:
        root: folder of ``instances.json`` and ``refs(<split_by>).p``.
        image_root: folder of the images, e.g. ``coco2014/train2014``.
        split: train, val, testA, testB (unc); train, val, test (umd); train, val (google).
        split_by: unc for RefCOCO and RefCOCO+, umd or google for RefCOCOg. The google split
            parts objects, not images: an image can be in train and in val.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many images.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    refs_file = Path(root) / f"refs({split_by}).p"
    refs = load_plain_pickle(refs_file)
    return _rows(refs, refs_file, Path(image_root), split, on_bad_row, limit)


def grefcoco_rows(
    *,
    root: str | Path,
    image_root: str | Path,
    split: str,
    split_by: str = "unc",
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[Row]:
    """As :func:`refcoco_rows`, of ``grefs(<split_by>).json``: expressions for many objects or none.

    An expression for several objects has the union of their masks; one for none has no objects.
    """
    refs_file = Path(root) / f"grefs({split_by}).json"
    refs = load_json(refs_file)
    return _rows(refs, refs_file, Path(image_root), split, on_bad_row, limit)


def _rows(
    refs: Any, refs_file: Path, image_root: Path, split: str, on_bad_row: str, limit: int | None
) -> Sequence[Row]:
    by_image = _refs_of_split(refs, refs_file, split)
    instances_file = refs_file.with_name("instances.json")
    images, annotations = _read_instances(instances_file)
    files = FolderFiles(image_root)

    def make(name: str, image_id: int, errors: RowErrors) -> Row | str | None:
        image = images.get(image_id)
        if image is None:
            return f"not among the images of {instances_file}"
        path, problem = files.find(image["file_name"])
        if problem is not None:
            return problem
        row = _row(path, image, by_image[image_id], annotations[image_id], instances_file, errors)
        return row if row.expressions else None

    named = ((f"image_id {image_id}", image_id) for image_id in by_image)
    return collect(named, make, file=refs_file, on_bad_row=on_bad_row, limit=limit)


def _read_instances(
    path: Path,
) -> tuple[dict[int, dict[str, Any]], dict[int, list[dict[str, Any]]]]:
    """Images by id, and each image's annotations."""
    data = load_json(path)
    for part, fields in _INSTANCE_FIELDS.items():
        if not isinstance(data, dict) or not isinstance(data.get(part), list):
            raise ValueError(f"{path}: not a COCO instances file; it needs a list {part!r}")
        for number, entry in enumerate(data[part]):
            problem = wrong_field(entry, fields)
            if problem is not None:
                raise ValueError(f"{path}: {part}[{number}] {problem}")
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in data["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    return {image["id"]: image for image in data["images"]}, annotations


def _refs_of_split(refs: Any, path: Path, split: str) -> dict[int, list[dict[str, Any]]]:
    if not isinstance(refs, list):
        raise ValueError(f"{path}: expected a list of refs, found {type(refs).__name__}")
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, ref in enumerate(refs):
        problem = wrong_field(ref, _REF_FIELDS)
        if problem is not None:
            raise ValueError(f"{path}: record {number} {problem}")
        if ref["split"] == split:
            by_image[ref["image_id"]].append(ref)
    if not by_image:
        known = sorted({ref["split"] for ref in refs})
        raise ValueError(f"{path}: no refs of split {split!r}; it has {', '.join(known)}")
    return by_image


def _row(
    path: Path,
    image: dict[str, Any],
    refs: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    instances_file: Path,
    errors: RowErrors,
) -> Row:
    size = (image["height"], image["width"])
    objects = tuple(
        StillMask(
            annotation["segmentation"],
            *size,
            where=f"{instances_file} ann_id {annotation['id']}",
            group=bool(annotation.get("iscrowd", 0)),
            bbox=annotation.get("bbox"),
        )
        for annotation in annotations
    )
    position = {annotation["id"]: index for index, annotation in enumerate(annotations)}
    expressions = [
        expression
        for ref in refs
        for expression in _expressions(ref, position, objects, instances_file, errors)
    ]
    return Row(path.name, path, None, size, objects, tuple(expressions))


def _expressions(
    ref: dict[str, Any],
    position: dict[int, int],
    objects: tuple[StillMask, ...],
    instances_file: Path,
    errors: RowErrors,
) -> list[Expression]:
    where = f"ref_id {ref['ref_id']}"
    ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    problem = _bad_targets(ref, ids, position, objects, instances_file)
    if problem is not None:
        errors.add(f"{where} (ann_id {', '.join(map(str, ids))})", problem)
        return []
    targets = tuple(position[ann_id] for ann_id in ids if ids != _NOTHING)
    expressions = []
    for sentence in ref["sentences"]:
        problem = wrong_field(sentence, _SENTENCE_FIELDS)
        if problem is not None:
            errors.add(where, f"a sentence {problem}")
            continue
        text = sentence["sent"].strip()
        if text:
            expressions.append(Expression(text, targets, str(sentence["sent_id"])))
        else:
            errors.add(f"{where} sent_id {sentence['sent_id']}", "empty expression")
    return expressions


def _bad_targets(
    ref: dict[str, Any],
    ids: list[int],
    position: dict[int, int],
    objects: tuple[StillMask, ...],
    instances_file: Path,
) -> str | None:
    """What is wrong with the annotations that a ref names, or None."""
    nothing = isinstance(ref["ann_id"], list) and ids == _NOTHING
    if "no_target" in ref and bool(ref["no_target"]) != nothing:
        return f"no_target is {ref['no_target']}; it goes with ann_id {_NOTHING} and nothing else"
    if nothing:
        return None
    if not ids:
        return f"it names no annotation; {_NOTHING} would say that nothing is meant"
    unknown = [str(ann_id) for ann_id in ids if ann_id not in position]
    if unknown:
        return (
            f"{', '.join(unknown)} is no annotation of image_id {ref['image_id']} in "
            f"{instances_file}"
        )
    return tracks_read([position[ann_id] for ann_id in ids], objects, frames=1)
