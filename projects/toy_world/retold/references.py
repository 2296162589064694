"""RefCOCO+, RefCOCOg (umd, google) and gRefCOCO, of the images of RefCOCO.

RefCOCO+ says nothing of places. RefCOCOg has the expressions of three words and more; umd parts
images into train, val and test, google parts objects, so that one image is in train and in val.
gRefCOCO adds expressions for two things ("the red circle and the blue star") and for none, and has
several annotations where RefCOCO has a crowd.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from projects.toy_world.drawing import COLOURS, SHAPES
from projects.toy_world.expressions import Expression
from projects.toy_world.layouts.files import Records, write_json
from projects.toy_world.layouts.refcoco import (
    SPLITS,
    ImageRecord,
    compose,
    image_entry,
    instances_of,
    sentence,
    write_files,
)
from projects.toy_world.retold.pictures import told_images
from projects.toy_world.world import World

_UMD = {"train": "train", "val": "val", "testA": "test", "testB": "test"}


def write(world: World, records: Mapping[str, Records], root: Path) -> None:
    told = {split: told_images(records, split) for split in SPLITS}
    folder = root / "refer_seg"
    instances, refs, _ = compose(world, told, lambda said: "relation" not in said.uses)
    write_files(folder / "refcoco+", instances, {"unc": refs})
    instances, refs, _ = compose(world, told, lambda said: len(said.text.split()) >= 3)
    umd = [{**ref, "split": _UMD[ref["split"]]} for ref in refs]
    google = [{**ref, "split": "val" if ref["ref_id"] % 5 == 0 else "train"} for ref in refs]
    write_files(folder / "refcocog", instances, {"umd": umd, "google": google})
    _write_grefcoco(world, told, folder / "grefcoco")


def _write_grefcoco(world: World, told: Records, folder: Path) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    for split, items in told.items():
        for number, record in enumerate(items):
            images.append(image_entry(record.image_id, world.side))
            first = len(annotations) + 1
            things = record.annotations[: len(record.looks)]
            annotations += [{**thing, "id": first + k} for k, thing in enumerate(things)]
            rng = world.generator("grefcoco", split, number)
            for text, targets in _said(rng, record):
                refs.append(_ref(len(refs) + 1, text, [first + t for t in targets], record, split))
    by_id = {annotation["id"]: annotation["category_id"] for annotation in annotations}
    for ref in refs:
        ref["category_id"] = [by_id.get(ann_id, -1) for ann_id in ref["ann_id"]]
    write_json(folder / "instances.json", instances_of(images, annotations))
    write_json(folder / "grefs(unc).json", refs)


def _said(rng: np.random.Generator, record: ImageRecord) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Expressions with the things that they name: RefCOCO's, one for two things, one for none."""
    said = [expression for group in record.expressions for expression in group]
    yield from ((expression.text, expression.targets) for expression in said)
    single = [expression for expression in said if len(expression.targets) == 1]
    pair = _two_things(rng, single)
    if pair is not None:
        one, other = pair
        yield f"{one.text} and {other.text}", (*one.targets, *other.targets)
    there = {(look.colour, look.shape) for look in record.looks}
    absent = [kind for kind in product(COLOURS, SHAPES) if kind not in there]
    yield " ".join(("the", *absent[int(rng.integers(len(absent)))])), ()


def _two_things(
    rng: np.random.Generator, single: list[Expression]
) -> tuple[Expression, Expression] | None:
    pairs = [(a, b) for a, b in product(single, single) if a.targets < b.targets]
    return pairs[int(rng.integers(len(pairs)))] if pairs else None


def _ref(
    ref_id: int, text: str, ann_ids: list[int], record: ImageRecord, split: str
) -> dict[str, Any]:
    return {
        "ref_id": ref_id,
        "ann_id": ann_ids or [-1],
        "image_id": record.image_id,
        "file_name": record.file_name.replace(".jpg", f"_{ref_id}.jpg"),
        "split": split,
        "no_target": not ann_ids,
        "sent_ids": [ref_id],
        "sentences": [sentence(ref_id, text)],
    }
