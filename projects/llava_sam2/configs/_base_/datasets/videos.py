"""The table of referring videos. An entry is a dataset without its ``inputs`` (docs/data.md)."""

import os

from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.ref_sav import ref_sav_rows
from projects.llava_sam2.datasets.ref_ytvos import ref_ytvos_rows
from projects.llava_sam2.datasets.revos import revos_rows
from projects.llava_sam2.datasets.templates import named_templates

data_root = os.environ.get("DATA_ROOT", "data")

_video_datas = f"{data_root}/video_datas"
# the frames are spread over the whole video, as evaluation and the demo show it
_video_sample = dict(
    type=GroundingDataset,
    templates=dict(type=named_templates, name="video"),
    mask_size=256,
    expressions=5,
    with_repetition=True,
    frames=dict(type=UniformFrames, num=5, jitter=True),
)
_videos = dict(
    mevis=dict(**_video_sample, rows=dict(type=mevis_rows, root=f"{_video_datas}/mevis/train")),
    ref_ytvos=dict(
        **_video_sample,
        rows=dict(type=ref_ytvos_rows, root=f"{_video_datas}/rvos", split="train"),
    ),
    # the same videos with the masks of Sa2VA's release, in place of YouTube-VOS' PNGs
    ref_ytvos_released=dict(
        **_video_sample,
        rows=dict(
            type=ref_ytvos_rows, root=f"{_video_datas}/rvos", split="train", masks="mask_dict"
        ),
    ),
    revos=dict(
        **_video_sample, rows=dict(type=revos_rows, root=f"{_video_datas}/ReVOS", split="train")
    ),
    ref_sav=dict(
        **_video_sample,
        rows=dict(
            type=ref_sav_rows,
            file=f"{_video_datas}/ref_sav/Ref-SAV.json",
            video_root=f"{data_root}/SA-V/train",
        ),
    ),
)
