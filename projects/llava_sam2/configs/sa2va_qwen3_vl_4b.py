"""Sa2VA on Qwen3-VL-4B: as on Qwen2.5-VL-3B, but a visual token covers 32 pixels a side."""

from mmengine.config import read_base

with read_base():
    from .sa2va_qwen2_5_vl_3b import *  # noqa: F403

_folder, _template = "pretrained_models/Qwen3-VL-4B-Instruct", "qwen3_vl_chat"
model["mllm"]["tokenizer"].update(path=_folder)  # noqa: F405
_language = dict(template=_template, tokenizer=model["mllm"]["tokenizer"])  # noqa: F405
model["mllm"].update(path=_folder, **_language)  # noqa: F405
model["heads"]["segment"]["projector"].update(hidden=2560)  # noqa: F405
for _entry in [*train_dataloader["datasets"], *benchmarks.values()]:  # noqa: F405
    _inputs = (_entry.get("dataset") or _entry["respond"])["inputs"]
    _inputs.update(tokens_per_tile=196, **_language)
    _inputs["tiles"].update(token=32)
