"""SAM 2.1 base+ on images and videos: SA-1B, SA-V and MOSE. Four epochs, in ten phases each."""

from mmengine.config import read_base

with read_base():
    from ._base_.image_and_video import *  # noqa: F403
    from ._base_.model import *  # noqa: F403
    from ._base_.schedule import *  # noqa: F403

model["sam2"].update(  # noqa: F405
    size="base_plus", checkpoint="pretrained_models/sam2.1_hiera_base_plus.pt"
)
train_cfg.update(max_epochs=4, phases_per_epoch=10)  # noqa: F405
checkpoint["interval"] = "phase"  # noqa: F405
