"""Qwen2.5-VL and Qwen3-VL from their released folders, which are in transformers' own layout."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from projects.common.conversation import chat_template, load_tokenizer, token_id
from projects.llava_sam2.hf.config_file import read_config
from projects.llava_sam2.hf.grounding import GROUNDING_PREFIXES
from projects.llava_sam2.hf.internvl import (
    ATTENTION,
    DTYPES,
    settle_tie,
    stored_dtype,
)
from projects.llava_sam2.hf.placeholder import byte_tokenizer
from projects.llava_sam2.hf.qwen_vl_sizes import QWEN_VL
from projects.llava_sam2.hf.random_start import random_model, rebuild_tables
from projects.llava_sam2.hf.shards import TensorFolder, fill, plan
from projects.llava_sam2.models.qwen2_5_vl import Qwen2_5VL
from projects.llava_sam2.models.qwen3_vl import Qwen3VL
from projects.llava_sam2.models.qwen_vl import QwenVL
from projects.llava_sam2.models.weights import cast_weights

logger = logging.getLogger(__name__)

# model_type of config.json: configuration, model, adapter, template
KINDS = {
    "qwen2_5_vl": (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5VL,
        "qwen2_5_vl_chat",
    ),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VL, "qwen3_vl_chat"),
}
_SA2VA = "sa2va_chat"  # model_type of ByteDance/Sa2VA-Qwen2_5-VL-*, Sa2VA-Qwen3-VL-*
_OUTSIDE = ("grounded", "model_type", "architectures", "auto_map")  # keys of config.json


def qwen_vl_from_folder(
    *,
    path: str | Path | None,
    size: str | None = None,
    tile_size: int = 448,
    template: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    attn: str = "sdpa",
    dtype: str = "bfloat16",
    gradient_checkpointing: bool = False,
) -> QwenVL:
    """Qwen2.5-VL or Qwen3-VL with the weights of a folder, or of a released size without weights.

    Args:
        path: folder as released (safetensors, tokenizer files), or an export of ours (its language
            model); ``config.json`` says which model it is. None for random weights.
        size: without a path: ``Qwen2.5-VL-3B``, or another name of ``QWEN_VL``.
        tile_size: side of a tile; a token for 28 (Qwen2.5-VL) or 32 pixels (Qwen3-VL) of it.
        template: chat template; None: the model's own.
        tokenizer: from ``load_tokenizer`` or ``load_shared_tokenizer`` on the same folder; None
            loads it with the grounding tokens. Without a path: one of single bytes.
        attn: attention of transformers.
        dtype: of the weights: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the file's.
        gradient_checkpointing: recompute activations in backward.

    Raises:
        FileNotFoundError: no folder, or weights or tokenizer files are missing.
        ValueError: a folder of another model, tensors that are missing or unexpected, a tokenizer
            without the image tokens.
    """
    _check_options(path, size, attn, dtype)
    said = QWEN_VL[size] if path is None else read_config(Path(path))
    kind = qwen_kind(said)
    if kind is None:
        raise ValueError(
            f"{path}/config.json is of a {said.get('model_type')!r}; wanted is one of "
            f"{', '.join(KINDS)} (InternVL loads by internvl_from_folder)"
        )
    config_class, model_class, adapter, own_template = KINDS[kind]
    template = template or own_template
    tokenizer = tokenizer or (byte_tokenizer() if path is None else load_tokenizer(path))
    config = config_class.from_dict({k: v for k, v in said.items() if k not in _OUTSIDE})
    context = chat_template(template).image_context
    image_id = token_id(tokenizer, context)
    if path is None:
        config.image_token_id = image_id
        model = random_model(model_class, config, dtype=DTYPES[dtype])
    else:
        if image_id != config.image_token_id:
            raise ValueError(
                f"{path}: {context} is token {image_id} of the tokenizer, and "
                f"{config.image_token_id} of the weights: its files belong to another model"
            )
        source = TensorFolder(Path(path))
        model = _load(source, model_class, config, DTYPES.get(dtype) or stored_dtype(source))
    model.set_attn_implementation(attn)
    return adapter(
        model=model,
        tokenizer=tokenizer,
        template=template,
        tile_size=tile_size,
        gradient_checkpointing=gradient_checkpointing,
    )


def qwen_kind(said: Mapping[str, Any]) -> str | None:
    """Which of :data:`KINDS` a ``config.json`` is of, that of a Sa2VA around one included; None:
    of another model."""
    kind = said.get("model_type")
    if kind == _SA2VA and isinstance(said.get("vision_config"), Mapping):
        kind = str(said["vision_config"].get("model_type")).removesuffix("_vision")
    return kind if kind in KINDS else None


def _check_options(path: str | Path | None, size: str | None, attn: str, dtype: str) -> None:
    if (path is None) == (size is None):
        raise ValueError("give path (a folder) or size (random weights), one of them")
    if size is not None and size not in QWEN_VL:
        raise ValueError(f"unknown Qwen-VL size {size!r}; choose one of {', '.join(QWEN_VL)}")
    if attn not in ATTENTION or dtype not in (*DTYPES, *(() if path is None else ("auto",))):
        raise ValueError(
            f"unknown attention {attn!r} or dtype {dtype!r}; choose among {', '.join(ATTENTION)} "
            f"and {', '.join(DTYPES)}, or auto with a path"
        )


def _load(
    source: TensorFolder,
    model_class: type[PreTrainedModel],
    config: Qwen2_5_VLConfig | Qwen3VLConfig,
    dtype: torch.dtype,
) -> PreTrainedModel:
    names = [name for name in source.names() if not name.startswith(GROUNDING_PREFIXES)]
    notes = settle_tie(source, config, names)
    with torch.device("meta"):
        model = model_class(config)
    if torch.get_default_device().type == "meta":
        return cast_weights(model, dtype)
    # Sa2VA's class keeps the language model in an attribute called so
    wrapped = any(name.startswith("model.model.") for name in names)
    convert = partial(_rename, wrapped=wrapped)
    report = plan(source, names, convert, model, where=str(source.folder))
    report.notes += notes
    fill(source, names, convert, model, dtype=dtype)
    model.tie_weights()
    rebuild_tables(model)
    logger.info("%s", report)
    return model


def _rename(name: str, tensor: Tensor, *, wrapped: bool) -> dict[str, Tensor]:
    """Qwen2.5-VL was released under the names of an earlier transformers."""
    name = name.removeprefix("model.") if wrapped else name
    if name.startswith("visual."):
        return {f"model.{name}": tensor}
    if name.startswith("model.") and not name.startswith(
        ("model.visual.", "model.language_model.")
    ):
        return {name.replace("model.", "model.language_model.", 1): tensor}
    return {name: tensor}
