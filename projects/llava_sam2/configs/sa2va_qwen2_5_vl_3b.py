"""Sa2VA on Qwen2.5-VL-3B, which sees images at about their own size (512 to 2048 tokens), and video
frames as well (128 to 512).

Its vision tower is frozen with its merger; words and lm_head are one table.
"""

from mmengine.config import read_base

from projects.llava_sam2.datasets.native import NativeResolution
from projects.llava_sam2.hf.qwen_vl import qwen_vl_from_folder

with read_base():
    from .sa2va_4b import *  # noqa: F403

_folder, _template = "pretrained_models/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl_chat"
model["mllm"]["tokenizer"].update(path=_folder)  # noqa: F405
_language = dict(template=_template, tokenizer=model["mllm"]["tokenizer"])  # noqa: F405
model["mllm"].update(type=qwen_vl_from_folder, path=_folder, **_language)  # noqa: F405
model["trainable"] = [  # noqa: F405
    "mllm.model.model.language_model.embed_tokens",
    "grounding.blocks.mask_decoder",
    "heads",
]
_images = dict(min_tokens=512, max_tokens=2048, frame_tokens=(128, 512))  # as Sa2VA's Qwen-VL
_tiles = dict(type=NativeResolution, size=448, token=28, **_images)
for _entry in [*train_dataloader["datasets"], *benchmarks.values()]:  # noqa: F405
    _inputs = (_entry.get("dataset") or _entry["respond"])["inputs"]
    _inputs.update(**_language)
    _inputs["tiles"] = _tiles  # update would merge the two
