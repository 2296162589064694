"""SA-V: 8 annotated frames and up to 3 objects a clip; validation on ``sav_val``."""

import os

from mmengine.config import read_base

from projects.sam2_video.data.clip import collate_clips
from projects.sam2_video.data.dataset import ClipDataset
from projects.sam2_video.data.png import PerObjectSource
from projects.sam2_video.data.samplers import UniformSampler
from projects.sam2_video.data.sav import SavSource
from projects.sam2_video.evaluation.vos import VosBenchmark

with read_base():
    from .transforms import _transforms

data_root = os.environ.get("DATA_ROOT", "data")

_sav = dict(
    type=ClipDataset,
    source=dict(
        type=SavSource,
        annotation_root=f"{data_root}/SA-V/train",
        frame_root=f"{data_root}/SA-V/train",
    ),
    sampler=dict(type=UniformSampler, num_frames=8, max_objects=3),
    transforms=_transforms,
)
train_dataloader = dict(
    datasets=[dict(dataset=_sav)],
    batch_size=1,
    num_workers=8,
    collate=collate_clips,
)
benchmarks = dict(
    sav_val=dict(
        type=VosBenchmark,
        source=dict(
            type=PerObjectSource,
            image_root=f"{data_root}/SA-V/sav_val/JPEGImages_24fps",
            annotation_root=f"{data_root}/SA-V/sav_val/Annotations_6fps",
            list_file=f"{data_root}/SA-V/sav_val.txt",
        ),
    ),
)
validation = dict(interval="epoch", benchmarks=["sav_val"], best="sav_val/J&F")
