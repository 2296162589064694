"""Qwen2.5-VL and Qwen3-VL from their released folders, which are in transformers' own layout."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from projects.common.checkpoint import LoadReport
from projects.common.conversation import chat_template, load_tokenizer, token_id
from projects.llava_sam2.hf.internvl import ATTENTION, DTYPES, read_config
from projects.llava_sam2.models.qwen2_5_vl import Qwen2_5VL
from projects.llava_sam2.models.qwen3_vl import Qwen3VL
from projects.llava_sam2.models.qwen_vl import QwenVL

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


def qwen_vl_from_folder(
    *,
    path: str | Path,
    tile_size: int = 448,
    template: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    attn: str = "sdpa",
    dtype: str = "bfloat16",
    gradient_checkpointing: bool = False,
) -> QwenVL:
    """Qwen2.5-VL or Qwen3-VL with the weights of a folder; ``config.json`` says which.

    Args:
        path: folder as released (safetensors, tokenizer files).
        tile_size: side of a tile; a token for 28 (Qwen2.5-VL) or 32 pixels (Qwen3-VL) of it.
        template: chat template; None: the model's own.
        tokenizer: from ``load_tokenizer`` or ``load_shared_tokenizer`` on the same folder; None
            loads it with the grounding tokens.
        attn: attention of transformers.
        dtype: of the weights: ``float32``, ``bfloat16``, ``float16``.
        gradient_checkpointing: recompute activations in backward.

    Raises:
        FileNotFoundError: no folder, or weights or tokenizer files are missing.
        ValueError: a folder of another model, tensors that are missing or unexpected, a tokenizer
            without the image tokens.
    """
    folder = Path(path)
    said = read_config(folder)
    kind = said.get("model_type")
    if kind not in KINDS:
        raise ValueError(
            f"{folder}/config.json is of a {kind!r}; wanted is one of {', '.join(KINDS)} (InternVL "
            "loads by internvl_from_folder)"
        )
    if attn not in ATTENTION or dtype not in DTYPES:
        raise ValueError(
            f"unknown attention {attn!r} or dtype {dtype!r}; choose among {', '.join(ATTENTION)} "
            f"and {', '.join(DTYPES)}"
        )
    config_class, model_class, adapter, own_template = KINDS[kind]
    template = template or own_template
    context = chat_template(template).image_context
    tokenizer = tokenizer or load_tokenizer(folder)
    config = config_class.from_dict(said)
    if token_id(tokenizer, context) != config.image_token_id:
        raise ValueError(
            f"{folder}: {context} is token {token_id(tokenizer, context)} of the tokenizer, and "
            f"{config.image_token_id} of the weights: its files belong to another model"
        )
    model = _load(folder, model_class, config, DTYPES[dtype])
    model.set_attn_implementation(attn)
    return adapter(
        model=model,
        tokenizer=tokenizer,
        template=template,
        tile_size=tile_size,
        gradient_checkpointing=gradient_checkpointing,
    )


def _load(
    folder: Path,
    model_class: type[PreTrainedModel],
    config: Qwen2_5_VLConfig | Qwen3VLConfig,
    dtype: torch.dtype,
) -> PreTrainedModel:
    if torch.get_default_device().type == "meta":
        return model_class(config).to(dtype)
    model, info = model_class.from_pretrained(
        str(folder),
        config=config,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    report = LoadReport(str(folder))
    report.missing = sorted(info["missing_keys"])
    report.unexpected = sorted(info["unexpected_keys"])
    report.matched = [key for key in model.state_dict() if key not in info["missing_keys"]]
    if report.missing or report.unexpected:
        raise ValueError(f"{report}\nIs the folder whole, and of this model?")
    logger.info("%s", report)
    return model.train()
