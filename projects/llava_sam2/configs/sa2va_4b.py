"""Sa2VA-4B: InternVL2.5-4B (Qwen2.5-3B) and SAM 2.1 large."""

from mmengine.config import read_base

from projects.llava_sam2.datasets.templates import named_templates
from projects.llava_sam2.evaluation.responders import AskModel

with read_base():
    from ._base_.mixtures.sa2va import _asked_images, _asked_videos, _mixture
    from ._base_.models.sa2va import *  # noqa: F403
    from ._base_.models.sa2va import _ask, _inputs
    from ._base_.schedules.sa2va import *  # noqa: F403

_folder, _template = "pretrained_models/InternVL2_5-4B", "qwen_chat"
model["mllm"].update(path=_folder, template=_template)  # noqa: F405
model["mllm"]["tokenizer"].update(path=_folder)  # noqa: F405
model["heads"]["segment"]["projector"].update(hidden=2048)  # noqa: F405
_inputs.update(template=_template)
_inputs["tokenizer"].update(path=_folder)

train_dataloader["datasets"] = [  # noqa: F405
    dict(entry, dataset=dict(entry["dataset"], inputs=_inputs)) for entry in _mixture
]
_ask.update(type=AskModel, inputs=_inputs)
_image = dict(_ask, templates=dict(type=named_templates, name="image"))
_video = dict(_ask, templates=dict(type=named_templates, name="video"))
benchmarks = {name: dict(entry, respond=_image) for name, entry in _asked_images.items()}
benchmarks |= {name: dict(entry, respond=_video) for name, entry in _asked_videos.items()}
