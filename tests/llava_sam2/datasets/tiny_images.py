"""Hand-made files in the real formats of images with words: gRefCOCO, GranD-f, Osprey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.llava_sam2.datasets.tiny import HEIGHT, RIGHT, WIDTH, rle, save_jpeg

POLYGON = [[2, 4, 10, 4, 10, 12, 2, 12]]  # LEFT


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def grefcoco_content() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """As in the released file: lists of ann_id, [-1] and no_target; one ref of val."""
    images = [
        {"id": number, "file_name": f"im_{number}.jpg", "height": HEIGHT, "width": WIDTH}
        for number in (1, 2)
    ]
    annotations = [
        {"id": 11, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": POLYGON},
        {"id": 12, "image_id": 1, "category_id": 2, "iscrowd": 0, "segmentation": rle(RIGHT)},
        {"id": 21, "image_id": 2, "category_id": 1, "iscrowd": 0, "segmentation": POLYGON},
    ]

    def ref(ref_id: int, ann_ids: list[int], image_id: int, split: str, *said: str) -> Any:
        return {
            "image_id": image_id,
            "split": split,
            "sentences": [
                {
                    "tokens": s.split(),
                    "raw": s,
                    "sent_id": 10 * ref_id + n,
                    "sent": s,
                    "exist": True,
                }
                for n, s in enumerate(said)
            ],
            "file_name": f"im_{image_id}_{ref_id}.jpg",
            "category_id": [1 if ann_id > 0 else -1 for ann_id in ann_ids],
            "ann_id": ann_ids,
            "sent_ids": [10 * ref_id + n for n in range(len(said))],
            "ref_id": ref_id,
            "no_target": ann_ids == [-1],
        }

    refs = [
        ref(1, [11], 1, "train", "the left square"),
        ref(2, [11, 12], 1, "train", "both"),
        ref(3, [-1], 1, "train", "blue dog", "big circle", "the red dog"),
        ref(4, [21], 2, "train", "square"),
        ref(5, [21], 2, "train", "red square"),
        ref(6, [-1], 2, "val", "dog"),
    ]
    return {"images": images, "annotations": annotations, "categories": []}, refs


def write_grefcoco(root: Path, instances: Any = None, refs: Any = None) -> dict[str, Path]:
    """Arguments for ``grefcoco_rows``; the given parts replace the well-formed ones."""
    default_instances, default_refs = grefcoco_content()
    write_json(root / "instances.json", instances or default_instances)
    write_json(root / "grefs(unc).json", refs or default_refs)
    for number in (1, 2):
        save_jpeg(root / "images" / f"im_{number}.jpg", number)
    return {"root": root, "image_root": root / "images"}
