"""SeC's stage 1: SAM 2.1 large with 22 memory slots learns to read a long memory.

Starts from ``python pretrained_models/reshape.py``. Only memory attention and the temporal table
train; the rest stays in eval mode and outside of autograd.
"""

from mmengine.config import read_base

from projects.sam2_video.prompting import SecSimulator

with read_base():
    from ._base_.model import *  # noqa: F403
    from ._base_.schedule import *  # noqa: F403
    from ._base_.sec_sav import *  # noqa: F403

model["sam2"].update(  # noqa: F405
    size="large",
    checkpoint="pretrained_models/sam2.1_hiera_large_maskmem_22.pt",
    num_maskmem=22,
    drop_path=0.0,
)
model["unroll"]["simulator"] = dict(type=SecSimulator, tracked_frames=8)  # noqa: F405
model["unroll"]["encode_split"] = 32  # noqa: F405
model["trainable"] = [  # noqa: F405
    "sam2.blocks.memory_attention",
    "sam2.blocks.memory_temporal_positional_encoding",
]
