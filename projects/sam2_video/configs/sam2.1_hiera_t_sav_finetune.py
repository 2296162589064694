"""SAM 2.1 tiny fine-tuned on SA-V, or on videos in SA-V's layout."""

from mmengine.config import read_base

with read_base():
    from ._base_.model import *  # noqa: F403
    from ._base_.sav import *  # noqa: F403
    from ._base_.schedule import *  # noqa: F403

model["sam2"].update(  # noqa: F405
    size="tiny", checkpoint="pretrained_models/sam2.1_hiera_tiny.pt"
)
