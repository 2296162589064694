"""Images and videos: SA-1B as clips of one frame beside SA-V and MOSE, which share their batches.

An epoch reads every video once, MOSE twice, and a random hundredth of SA-1B's 11 million images,
another one each time.
"""

import os

from mmengine.config import read_base

from projects.sam2_video.data.dataset import ClipDataset
from projects.sam2_video.data.sa1b import Sa1bSource
from projects.sam2_video.data.samplers import UniformSampler

with read_base():
    from .mose import *  # noqa: F403
    from .sav import _sav
    from .sav import benchmarks as _sav_benchmarks
    from .transforms import _transforms

data_root = os.environ.get("DATA_ROOT", "data")

_sa1b = dict(
    type=ClipDataset,
    task="image",
    source=dict(type=Sa1bSource, image_root=f"{data_root}/SA-1B"),
    sampler=dict(type=UniformSampler, num_frames=1, max_objects=3),
    transforms=_transforms,
)
train_dataloader["datasets"] = [  # noqa: F405
    dict(dataset=_sa1b, repeat=0.01, batch_size=4),
    dict(dataset=_sav, repeat=1.0),
    dict(dataset=_mose, repeat=2.0),  # noqa: F405
]
benchmarks.update(_sav_benchmarks)  # noqa: F405
validation = dict(interval="phase", benchmarks=["mose_val", "sav_val"], best="sav_val/J&F")
