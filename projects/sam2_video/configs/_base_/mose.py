"""MOSE: 8 frames and up to 3 objects a clip; the videos of one list are held out for validation.

``MOSE/MOSE_sample_val_list.txt`` names videos of the training folder, one a line: the list of the
published recipe, or one's own.
"""

import os

from mmengine.config import read_base

from projects.sam2_video.data.clip import collate_clips
from projects.sam2_video.data.dataset import ClipDataset
from projects.sam2_video.data.png import PaletteSource
from projects.sam2_video.data.samplers import UniformSampler
from projects.sam2_video.evaluation.vos import VosBenchmark

with read_base():
    from .transforms import _transforms

data_root = os.environ.get("DATA_ROOT", "data")

_mose = dict(
    type=ClipDataset,
    source=dict(
        type=PaletteSource,
        image_root=f"{data_root}/MOSE/train/JPEGImages",
        annotation_root=f"{data_root}/MOSE/train/Annotations",
        exclude_file=f"{data_root}/MOSE/MOSE_sample_val_list.txt",
    ),
    sampler=dict(type=UniformSampler, num_frames=8, max_objects=3),
    transforms=_transforms,
)
train_dataloader = dict(
    datasets=[dict(dataset=_mose, repeat=2.0)],
    batch_size=1,
    num_workers=8,
    collate=collate_clips,
)
benchmarks = dict(
    mose_val=dict(
        type=VosBenchmark,
        source=dict(
            type=PaletteSource,
            image_root=f"{data_root}/MOSE/train/JPEGImages",
            annotation_root=f"{data_root}/MOSE/train/Annotations",
            list_file=f"{data_root}/MOSE/MOSE_sample_val_list.txt",
        ),
    ),
)
validation = dict(interval="epoch", benchmarks=["mose_val"], best="mose_val/J&F")
