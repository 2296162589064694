"""The table of concept guidance: SA-V's objects. The ``inputs`` of these are ``ConceptInputs``."""

import os

from projects.llava_sam2.datasets.concept import ConceptDataset
from projects.sam2_video.data.sav import SavSource

data_root = os.environ.get("DATA_ROOT", "data")

_concept = dict(
    sav_concept=dict(
        type=ConceptDataset,
        source=dict(
            type=SavSource,
            annotation_root=f"{data_root}/SA-V/train",
            frame_root=f"{data_root}/SA-V/train",
        ),
        objects_file=f"{data_root}/SA-V/sav_video_obj_ids.txt",
        mask_size=256,
    ),
)
