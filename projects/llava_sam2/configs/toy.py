"""Stage 2 on the toy world: words to masks, on a CPU. Two processes make the batch of 12.

STAGE1=work_dirs/toy/stage1 bash tools/dist.sh train projects/llava_sam2/configs/toy.py 2
"""

from mmengine.config import read_base

with read_base():
    from ._base_.toy_data import *  # noqa: F403
    from ._base_.toy_model import *  # noqa: F403
    from ._base_.toy_schedule import *  # noqa: F403
