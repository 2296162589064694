"""Sa2VA-1B: InternVL2.5-1B (Qwen2.5-0.5B) and SAM 2.1 large."""

from mmengine.config import read_base

with read_base():
    from .sa2va_4b import *  # noqa: F403

_folder, _template = "pretrained_models/InternVL2_5-1B", "qwen_chat"
model["mllm"]["tokenizer"].update(path=_folder)  # noqa: F405
_language = dict(template=_template, tokenizer=model["mllm"]["tokenizer"])  # noqa: F405
model["mllm"].update(path=_folder, **_language)  # noqa: F405
model["heads"]["segment"]["projector"].update(hidden=896)  # noqa: F405
for _entry in [*train_dataloader["datasets"], *benchmarks.values()]:  # noqa: F405
    _inputs = (_entry.get("dataset") or _entry["respond"])["inputs"]
    _inputs.get("inputs", _inputs).update(**_language)
