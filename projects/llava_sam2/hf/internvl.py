"""InternVL from a folder of weights: the original layout or that of transformers, no remote code.

    config.json ─► transformers' configuration ─► model on the meta device ─┐ every tensor explained
    headers of the shards ─► table of names ────────────────────────────────┤ before any is read
    tokenizer files ─► tokenizer, ids checked                               ▼
    shards ─► one tensor at a time, split and cast ─────────────► InternVL, ready

Nothing is held twice but the tensor that is being cast.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerBase

from projects.common.checkpoint import LoadReport
from projects.common.conversation import (
    IMAGE_CONTEXT,
    chat_template,
    check_template,
    token_id,
)
from projects.llava_sam2.hf.architectures import RELEASED, from_original, is_original
from projects.llava_sam2.hf.config_file import buildable, model_config, read_config
from projects.llava_sam2.hf.grounding import GROUNDING_PREFIXES
from projects.llava_sam2.hf.names import OriginalNames
from projects.llava_sam2.hf.placeholder import byte_tokenizer
from projects.llava_sam2.hf.random_start import random_model, rebuild_tables
from projects.llava_sam2.hf.shards import TensorFolder, fill, plan
from projects.llava_sam2.hf.tokenizers import check_tokenizer, default_template, own_tokenizer
from projects.llava_sam2.models.mllm import InternVL
from projects.llava_sam2.models.sequence import check_language

logger = logging.getLogger(__name__)

ATTENTION = ("sdpa", "eager", "flash_attention_2")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HEADS = (
    "language_model.lm_head.weight",
    "language_model.output.weight",
    "lm_head.weight",
    "model.lm_head.weight",  # Sa2VA on Qwen-VL
)
EMBEDDINGS = (
    "language_model.model.embed_tokens.weight",
    "language_model.model.tok_embeddings.weight",
    "model.language_model.embed_tokens.weight",
    "model.embed_tokens.weight",  # Qwen2.5-VL as released, and within Sa2VA
    "model.model.embed_tokens.weight",
    "model.model.language_model.embed_tokens.weight",
)
_EARLIER = (  # how transformers called its parts before its version 5, the longer name first
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
_LAYER = re.compile(r"(language_model\..*|^(model\.)+)layers\.\d+\.")


def internvl_from_folder(
    *,
    path: str | Path | None,
    size: str | None = None,
    template: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    attn: str = "sdpa",
    dtype: str = "bfloat16",
    gradient_checkpointing: bool = False,
) -> InternVL:
    """InternVL with the weights of a folder, or of a released size without weights.

    Under ``torch.device("meta")`` weights are checked but not read: for counting parameters.

    Args:
        path: folder of InternVL2.5 in its original layout, of transformers' (``*-hf``), of
            Sa2VA or SeC (their language model), or an export of ours; None for random weights.
        size: without a path: ``1B``, ``2B``, ``4B``, ``8B`` or ``26B``.
        template: chat template; None: as ``config.json`` says.
        tokenizer: from ``load_tokenizer`` or ``load_shared_tokenizer`` on the same folder; None
            loads it with the grounding tokens. Without a path: one of single bytes.
        attn: attention of transformers.
        dtype: of the weights: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the file's.
        gradient_checkpointing: recompute activations in backward.

    Raises:
        FileNotFoundError: no folder, no weights, a shard or the tokenizer is missing.
        ValueError: a folder of another model, tensors that do not line up, a template that does
            not exist or cannot be found out, a tokenizer of another model.
    """
    _check_options(path, size, attn, dtype)
    if path is None:
        config = from_original(RELEASED[size], where=size)
        tokenizer = tokenizer or byte_tokenizer()
        template = template or default_template(RELEASED[size], config, where=size)
        check_template(tokenizer, template)
        model = random_model(InternVLForConditionalGeneration, config, dtype=DTYPES[dtype])
    else:
        folder = Path(path)
        said = read_config(folder)
        config = model_config(said, where=str(folder))
        template = template or default_template(said, config, where=str(folder))
        chat_template(template)
        tokenizer = tokenizer or own_tokenizer(folder, said)
        check_tokenizer(tokenizer, config, said, folder)
        check_template(tokenizer, template)
        check_language(config.text_config, where=str(folder))
        model, report = load_internvl(folder, said, config, dtype=DTYPES.get(dtype))
        logger.info("%s", report)
    model.config.image_token_id = token_id(tokenizer, IMAGE_CONTEXT)
    model.set_attn_implementation(attn)
    return InternVL(
        model=model,
        tokenizer=tokenizer,
        template=template,
        gradient_checkpointing=gradient_checkpointing,
    )


def load_internvl(
    folder: Path, said: Mapping[str, Any], config: InternVLConfig, *, dtype: torch.dtype | None
) -> tuple[InternVLForConditionalGeneration, LoadReport]:
    """The model of a folder, and what became of every tensor of its language part.

    ``dtype`` None takes the type of most of the file's decoder layers.
    """
    source = TensorFolder(folder)
    dtype = dtype or stored_dtype(source)
    names = [name for name in source.names() if not name.startswith(GROUNDING_PREFIXES)]
    notes = settle_tie(source, config, names)
    with torch.device("meta"), buildable(folder):
        convert = OriginalNames(config).from_original if is_original(said) else _transformers_name
        model = InternVLForConditionalGeneration(config)
    report = plan(source, names, convert, model, where=str(folder))
    report.notes += notes
    if torch.get_default_device().type == "meta":
        return model.to(dtype), report
    fill(source, names, convert, model, dtype=dtype)
    model.tie_weights()
    rebuild_tables(model)
    return model, report


def settle_tie(source: TensorFolder, config: InternVLConfig, names: list[str]) -> list[str]:
    """Whether lm_head is the embeddings: a file that brings both decides, not the config alone."""
    heads = [name for name in HEADS if name in source]
    if not config.tie_word_embeddings or not heads:
        return []
    tables = [tensor for _, tensor in source.read([*heads, *EMBEDDINGS])]
    if len(tables) == 2 and torch.equal(*tables):
        names.remove(heads[0])
        return [f"{heads[0]} equals the embeddings, to which it is tied"]
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    return [f"{heads[0]} differs from the embeddings: not tied, whatever config.json says"]


def stored_dtype(source: TensorFolder) -> torch.dtype:
    """That of most of the decoder layers; what was trained may lie beside them in float32."""
    counts: Counter[torch.dtype] = Counter()
    for name, dtype in source.dtypes.items():
        if dtype is not None and _LAYER.search(name):
            counts[dtype] += math.prod(source.shapes[name])
    return counts.most_common(1)[0][0] if counts else torch.float32


def _transformers_name(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Names of transformers' folders, those that its earlier versions wrote among them."""
    for earlier, now in _EARLIER:
        if name.startswith(earlier):
            return {now + name.removeprefix(earlier): tensor}
    return {name: tensor}


def _check_options(path: str | Path | None, size: str | None, attn: str, dtype: str) -> None:
    if (path is None) == (size is None):
        raise ValueError("give path (a folder) or size (random weights), one of them")
    if size is not None and size not in RELEASED:
        raise ValueError(f"unknown InternVL2.5 size {size!r}; choose one of {', '.join(RELEASED)}")
    if attn not in ATTENTION:
        raise ValueError(f"unknown attention {attn!r}; choose one of {', '.join(ATTENTION)}")
    if dtype not in DTYPES and (dtype != "auto" or path is None):
        raise ValueError(
            f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}, or auto with a path"
        )
