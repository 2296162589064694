"""Sa2VA-4B as released, fine-tuned on images of one's own: see docs/grounded_model.md.

The released weights were trained with the template phi3_chat, though their language model is Qwen.
"""

from mmengine.config import read_base

from projects.llava_sam2.hf.grounded import sa2va_from_folder

with read_base():
    from ._base_.datasets.images import _images
    from ._base_.models.sa2va import *  # noqa: F403
    from ._base_.models.sa2va import _inputs
    from ._base_.schedules.sa2va import *  # noqa: F403

_folder = "pretrained_models/Sa2VA-4B"
_inputs.update(template="phi3_chat")
_inputs["tokenizer"].update(path=_folder)
model = dict(
    type=sa2va_from_folder,
    path=_folder,
    template="phi3_chat",
    tokenizer=_inputs["tokenizer"],
    gradient_checkpointing=True,
    heads=model["heads"],  # noqa: F405
    lora=model["lora"],  # noqa: F405
    trainable=model["trainable"],  # noqa: F405
)
train_dataloader["datasets"] = [  # noqa: F405
    dict(dataset=dict(_images["sa2va_finetune"], inputs=_inputs), repeat=1.0)
]
train_cfg.update(max_epochs=5)  # noqa: F405
checkpoint.update(interval="epoch")  # noqa: F405
