"""SeC's stage 1 on SA-V: 30 frames, every 2nd annotated one, of videos with many scene changes.

``SA-V/sav_scene_top2k.txt`` names them, one a line; ``tools/make_sav_lists.py`` writes it.
"""

import os

from mmengine.config import read_base

from projects.sam2_video.data.samplers import UniformSampler

with read_base():
    from .sav import *  # noqa: F403

data_root = os.environ.get("DATA_ROOT", "data")

_sav["source"]["list_file"] = f"{data_root}/SA-V/sav_scene_top2k.txt"  # noqa: F405
_sav["sampler"] = dict(type=UniformSampler, num_frames=30, max_objects=2, stride=2)  # noqa: F405
train_dataloader["datasets"] = [dict(dataset=_sav)]  # noqa: F405
train_dataloader["batch_size"] = 4  # noqa: F405
