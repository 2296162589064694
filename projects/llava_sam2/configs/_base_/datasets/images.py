"""The table of referring images: expressions for objects of COCO's images.

An entry is a dataset without its ``inputs``, which the model's config adds (docs/data.md).
"""

import os

from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.refcoco import grefcoco_rows, refcoco_rows
from projects.llava_sam2.datasets.sa2va_json import sa2va_rows
from projects.llava_sam2.datasets.templates import named_templates

data_root = os.environ.get("DATA_ROOT", "data")

_refer_seg = f"{data_root}/refer_seg"
_train2014 = f"{data_root}/coco2014/train2014"
# five expressions a sample, drawn with repetition; masks at SAM 2's low resolution
_image_sample = dict(
    type=GroundingDataset,
    templates=dict(type=named_templates, name="image"),
    mask_size=256,
    expressions=5,
    with_repetition=True,
)
_images = dict(
    refcoco=dict(
        **_image_sample,
        rows=dict(
            type=refcoco_rows,
            root=f"{_refer_seg}/refcoco",
            image_root=_train2014,
            split="train",
        ),
    ),
    refcoco_plus=dict(
        **_image_sample,
        rows=dict(
            type=refcoco_rows,
            root=f"{_refer_seg}/refcoco+",
            image_root=_train2014,
            split="train",
        ),
    ),
    refcocog=dict(
        **_image_sample,
        rows=dict(
            type=refcoco_rows,
            root=f"{_refer_seg}/refcocog",
            image_root=_train2014,
            split="train",
            split_by="umd",
        ),
    ),
    grefcoco=dict(
        type=GroundingDataset,
        rows=dict(
            type=grefcoco_rows,
            root=f"{_refer_seg}/grefcoco",
            image_root=_train2014,
            split="train",
        ),
        templates=dict(type=named_templates, name="generalized"),
        mask_size=256,
        expressions=5,
        with_repetition=True,
    ),
    sa2va_finetune=dict(
        **_image_sample,
        rows=dict(
            type=sa2va_rows,
            file=f"{data_root}/sa2va_finetune/annotations.json",
            image_root=f"{data_root}/sa2va_finetune/images",
        ),
    ),
)
