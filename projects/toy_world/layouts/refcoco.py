"""RefCOCO: ``instances.json`` (COCO), ``refs(unc).p`` and JPEG images.

Every shape is an annotation: polygons, or RLE where its mask has holes. An expression for several
shapes refers to one more annotation, a crowd (RLE) that covers them, as COCO does for groups.

Splits: train and val are drawn alike. In testA no two shapes of an image share a colour, in testB
two always do: the difference between the two says how far a model goes by colour alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from projects.common.masks import decode_polygons, encode_rle, mask_to_box, mask_to_polygons, union
from projects.common.video import write_jpeg
from projects.toy_world.drawing import SHAPES
from projects.toy_world.expressions import Expression, write_expressions
from projects.toy_world.layouts.files import Records, labels_of, write_json
from projects.toy_world.scene import Scene, SceneSpec, sample_scene
from projects.toy_world.world import World

SPLITS: tuple[str, ...] = ("train", "val", "testA", "testB")
_IDS_PER_SPLIT = 1_000_000  # an image keeps its id whatever the sizes of the splits
_TWINS = {"testA": (0.0, 0.0, 0.0), "testB": (0.6, 0.2, 0.2)}


class Look(NamedTuple):
    """How a thing looks; no two of an image are alike in all three."""

    size: str
    colour: str
    shape: str


@dataclass(frozen=True)
class ImageRecord:
    """An image: its COCO annotations without ids, and for each the expressions that name it.

    The first annotations are the scene's things, with their looks; the others are groups of them.
    """

    image_id: int
    annotations: list[dict[str, Any]]
    expressions: list[list[Expression]]
    looks: list[Look]

    @property
    def file_name(self) -> str:
        return _file_name(self.image_id)


def write_item(world: World, split: str, index: int, root: Path) -> ImageRecord:
    rng = world.generator("refcoco", split, index)
    spec = SceneSpec(size=world.side)
    if split in _TWINS:
        spec = SceneSpec(size=world.side, twins=_TWINS[split])
    scene = sample_scene(rng, spec)
    image_id = SPLITS.index(split) * _IDS_PER_SPLIT + index + 1
    folder = image_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    write_jpeg(folder / _file_name(image_id), scene.frames[0])
    expressions = write_expressions(rng, scene, world.image_expressions, world.image_families)
    return _record(scene, image_id, expressions)


def write_index(world: World, records: Records, root: Path) -> dict[str, Any]:
    instances, refs, labels = compose(world, records)
    write_files(root / "refer_seg" / "refcoco", instances, {"unc": refs})
    return {"refcoco": labels}


def compose(
    world: World, records: Records, keep: Callable[[Expression], bool] = lambda expression: True
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """``instances.json``, the refs, and labels of the sentences, of all splits in order.

    Args:
        keep: which expressions are written.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    labels: dict[str, Any] = {}
    for split, items in records.items():
        for record in items:
            images.append(image_entry(record.image_id, world.side))
            for annotation, said in zip(record.annotations, record.expressions, strict=True):
                annotations.append({**annotation, "id": len(annotations) + 1})
                expressions = [expression for expression in said if keep(expression)]
                if not expressions:
                    continue
                first = len(labels) + 1
                labels |= {str(first + k): labels_of(e) for k, e in enumerate(expressions)}
                refs.append(_ref(len(refs) + 1, annotations[-1], split, first, expressions))
    return instances_of(images, annotations), refs, labels


def write_files(
    folder: Path, instances: dict[str, Any], refs: Mapping[str, list[dict[str, Any]]]
) -> None:
    """``instances.json``, and ``refs(<who split it>).p`` for each way to split the refs."""
    write_json(folder / "instances.json", instances)
    for split_by, part in refs.items():
        # Protocol 2 is what the original was written with; its reader needs nothing newer.
        (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(part, protocol=2))


def _record(scene: Scene, image_id: int, expressions: list[Expression]) -> ImageRecord:
    masks = list(scene.masks[0])
    categories = [1 + list(SHAPES).index(thing.shape) for thing in scene.things]
    annotations = [
        _annotation(mask, category, image_id, crowd=False)
        for mask, category in zip(masks, categories, strict=True)
    ]
    named = [[e for e in expressions if e.targets == (n,)] for n in range(len(masks))]
    for targets in dict.fromkeys(e.targets for e in expressions if len(e.targets) > 1):
        crowd = union(masks[n] for n in targets)
        annotations.append(_annotation(crowd, categories[targets[0]], image_id, crowd=True))
        named.append([e for e in expressions if e.targets == targets])
    looks = [Look(thing.size, thing.colour, thing.shape) for thing in scene.things]
    return ImageRecord(image_id, annotations, named, looks)


def _annotation(mask: np.ndarray, category: int, image_id: int, *, crowd: bool) -> dict[str, Any]:
    box = mask_to_box(mask)
    assert box is not None, "a scene in which a thing is not seen at all"
    x1, y1, x2, y2 = box
    polygons = mask_to_polygons(mask)
    filled = decode_polygons(polygons, *mask.shape, where=f"image {image_id}")
    exact = not crowd and np.array_equal(filled, mask)  # a hole is lost in polygons
    return {
        "segmentation": polygons if exact else encode_rle(mask),
        "area": int(mask.sum()),
        "iscrowd": int(crowd),
        "image_id": image_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "category_id": category,
    }


def _ref(
    ref_id: int,
    annotation: dict[str, Any],
    split: str,
    first_sentence: int,
    expressions: list[Expression],
) -> dict[str, Any]:
    image_id, ann_id = annotation["image_id"], annotation["id"]
    sent_ids = list(range(first_sentence, first_sentence + len(expressions)))
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        # As in the original, this is not the image's file name: the annotation's id is in it.
        "file_name": _file_name(image_id).replace(".jpg", f"_{ann_id}.jpg"),
        "category_id": annotation["category_id"],
        "split": split,
        "sent_ids": sent_ids,
        "sentences": [
            sentence(sent_id, expression.text)
            for sent_id, expression in zip(sent_ids, expressions, strict=True)
        ],
    }


def sentence(sent_id: int, text: str) -> dict[str, Any]:
    return {"sent_id": sent_id, "sent": text, "raw": text.capitalize(), "tokens": text.split()}


def image_entry(image_id: int, side: int) -> dict[str, Any]:
    return {
        "id": image_id,
        "file_name": _file_name(image_id),
        "height": side,
        "width": side,
        "license": 1,
    }


def instances_of(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "info": {"description": "Toy world in the RefCOCO layout"},
        "licenses": [{"id": 1, "name": "Apache License 2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": shape, "supercategory": "shape"}
            for number, shape in enumerate(SHAPES, start=1)
        ],
    }


def image_folder(root: Path) -> Path:
    return root / "coco2014" / "train2014"


def _file_name(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"
