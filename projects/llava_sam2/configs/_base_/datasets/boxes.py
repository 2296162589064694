"""The table of boxes as text, which ``tools/make_boxes.py`` makes of the masks of videos."""

import os

from projects.llava_sam2.datasets.box_rows import box_rows
from projects.llava_sam2.datasets.boxes import BoxDataset
from projects.llava_sam2.datasets.frame_samplers import UniformFrames

data_root = os.environ.get("DATA_ROOT", "data")

_box_videos = f"{data_root}/video_datas"
_spatial = f"{data_root}/special_jsons/spatial"
_box_sample = dict(type=BoxDataset, frames=dict(type=UniformFrames, num=6, jitter=True))
_boxes = dict(
    mevis_boxes=dict(
        **_box_sample,
        rows=dict(
            type=box_rows,
            file=f"{_box_videos}/mevis/train/meta_expressions.json",
            boxes=f"{_spatial}/mevis/mevis_bbox.json",
            frame_root=f"{_box_videos}/mevis/train/JPEGImages",
        ),
    ),
    ref_ytvos_boxes=dict(
        **_box_sample,
        rows=dict(
            type=box_rows,
            file=f"{_spatial}/refytvos/ref_ytvos_expressions.json",
            boxes=f"{_spatial}/refytvos/ref_ytvos_bbox.json",
            frame_root=f"{_box_videos}/rvos/train/JPEGImages",
        ),
    ),
    revos_boxes=dict(
        **_box_sample,
        rows=dict(
            type=box_rows,
            file=f"{_box_videos}/ReVOS/meta_expressions_train_.json",
            boxes=f"{_spatial}/revos/revos_bbox.json",
            frame_root=f"{_box_videos}/ReVOS/JPEGImages",
        ),
    ),
)
