"""Sa2VA on Qwen3-VL-2B."""

from mmengine.config import read_base

with read_base():
    from .sa2va_qwen3_vl_4b import *  # noqa: F403

_folder = "pretrained_models/Qwen3-VL-2B-Instruct"
model["mllm"].update(path=_folder)  # noqa: F405
model["mllm"]["tokenizer"].update(path=_folder)  # noqa: F405
model["heads"]["segment"]["projector"].update(hidden=2048)  # noqa: F405
for _entry in [*train_dataloader["datasets"], *benchmarks.values()]:  # noqa: F405
    (_entry.get("dataset") or _entry["respond"])["inputs"]["tokenizer"].update(path=_folder)
