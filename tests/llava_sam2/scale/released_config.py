from mmengine.config import read_base

with read_base():
    from .config import *  # noqa: F403

from projects.llava_sam2.hf import sa2va_from_folder

model = dict(  # an export of config.py's model, whose LoRA is merged
    type=sa2va_from_folder,
    path="",
    dtype="float32",
    heads=model["heads"],  # noqa: F405
    trainable=model["trainable"],  # noqa: F405
)
