"""InternVL from a folder of weights: the original layout or that of transformers, no remote code.

    config.json ─► transformers' configuration ─► model on the meta device ─┐ every tensor explained
    headers of the shards ─► table of names ────────────────────────────────┤ before any is read
    tokenizer files ─► tokenizer, ids checked                               ▼
    shards ─► one tensor at a time, split and cast ─────────────► InternVL, ready

Nothing is held twice but the tensor that is being cast.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerBase

from projects.common.checkpoint import LoadReport
from projects.common.conversation import (
    GROUNDING_TOKENS,
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    TEMPLATES,
    add_tokens,
    chat_template,
    check_template,
    token_id,
)
from projects.common.tokenizer_files import read_tokenizer
from projects.llava_sam2.hf.architectures import RELEASED, from_original, is_original
from projects.llava_sam2.hf.grounding import GROUNDING_PREFIXES
from projects.llava_sam2.hf.names import OriginalNames
from projects.llava_sam2.hf.placeholder import byte_tokenizer
from projects.llava_sam2.hf.shards import TensorFolder, fill, plan
from projects.llava_sam2.models.adapter import cast_weights
from projects.llava_sam2.models.mllm import InternVL
from projects.llava_sam2.models.sequence import check_language

logger = logging.getLogger(__name__)

ATTENTION = ("sdpa", "eager", "flash_attention_2")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HEADS = ("language_model.lm_head.weight", "language_model.output.weight", "lm_head.weight")
EMBEDDINGS = (
    "language_model.model.embed_tokens.weight",
    "language_model.model.tok_embeddings.weight",
    "model.language_model.embed_tokens.weight",
)
_EARLIER = (  # how transformers called its parts before its version 5, the longer name first
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
_LAYER = re.compile(r"language_model\..*layers\.\d+\.")
_CHATML = {"llama": "internlm2_chat"}  # all others among InternVL's language models are Qwen's


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
        model = cast_weights(InternVLForConditionalGeneration(config), DTYPES[dtype])
    else:
        folder = Path(path)
        said = read_config(folder)
        config = model_config(said, where=str(folder))
        template = template or default_template(said, config, where=str(folder))
        chat_template(template)
        tokenizer = tokenizer or own_tokenizer(folder, grounded=_is_grounded(said))
        check_tokenizer(tokenizer, config, where=str(folder), grounded=_is_grounded(said))
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


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder.

    Raises:
        FileNotFoundError, ValueError: not there, or no json.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder at {folder}")
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is no folder of a model")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a json file: {error}") from error


def model_config(said: Mapping[str, Any], *, where: str) -> InternVLConfig:
    """transformers' configuration of a ``config.json`` of either layout.

    Raises:
        ValueError: a model of another kind.
    """
    if is_original(said):
        return from_original(said, where=f"{where}/config.json")
    if said.get("model_type") == InternVLConfig.model_type:
        plain = {key: value for key, value in said.items() if key != "grounded"}
        return InternVLConfig.from_dict(plain)
    raise ValueError(
        f"{where}/config.json is of a {said.get('model_type')!r} ({said.get('architectures')}); "
        "wanted is InternVL (InternVLChatModel, or InternVLForConditionalGeneration of "
        "transformers), Sa2VA or SeC"
    )


def default_template(said: Mapping[str, Any], config: InternVLConfig, *, where: str) -> str:
    """The chat template that a ``config.json`` names, in our spelling.

    Raises:
        ValueError: it names one that we do not have.
    """
    named = str(said.get("grounded", said).get("template", "chatml")).replace("-", "_")
    if named in TEMPLATES:
        return named
    if named in ("internvl2_5", "chatml"):  # ChatML, whichever language model
        return _CHATML.get(config.text_config.model_type, "qwen_chat")
    raise ValueError(
        f"{where}: config.json names the chat template {named!r}, which is not known; give one of "
        f"{', '.join(sorted(TEMPLATES))} as template="
    )


def own_tokenizer(folder: Path, *, grounded: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, with the grounding tokens.

    Raises:
        ValueError: it lacks tokens that the folder's weights were trained with.
    """
    tokenizer = read_tokenizer(folder)
    known = tokenizer.get_vocab()
    lacking = [token for token in _trained_tokens(grounded) if token not in known]
    if lacking:
        raise ValueError(
            f"{folder}: the tokenizer lacks {', '.join(lacking)}, with which its weights were "
            "trained: files are missing (added_tokens.json?), or belong to another model"
        )
    add_tokens(tokenizer, GROUNDING_TOKENS)
    return tokenizer


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: InternVLConfig, *, where: str, grounded: bool
) -> None:
    """Tokens that the weights were trained with must have a row in the embeddings.

    Raises:
        ValueError: they have none, so that the tokenizer is not that of the weights.
    """
    rows = config.text_config.vocab_size
    trained = _trained_tokens(grounded)
    lacking = [token for token in trained if token_id(tokenizer, token) >= rows]
    if lacking:
        raise ValueError(
            f"{where}: the weights have {rows} embeddings, and the tokenizer "
            f"{tokenizer.name_or_path!r} gives {', '.join(lacking)} ids beyond them: its files "
            "lack these tokens, or belong to another model"
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
    convert = OriginalNames(config).from_original if is_original(said) else _transformers_name
    with torch.device("meta"):
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


def rebuild_tables(model: nn.Module) -> None:
    """Tables that are computed, not stored, were left on the meta device: make them anew.

    Raises:
        RuntimeError: something is left there that this does not know.
    """
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module._buffers.values() if buffer is not None):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, type(module)(config=module.config))
    left = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if left:
        raise RuntimeError(f"never filled: {', '.join(left[:5])}")


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


def _trained_tokens(grounded: bool) -> tuple[str, ...]:
    return (IMAGE_START, IMAGE_CONTEXT, IMAGE_END, *(GROUNDING_TOKENS if grounded else ()))


def _is_grounded(said: Mapping[str, Any]) -> bool:
    """Whether a folder was trained to ground: Sa2VA, SeC, or an export of ours."""
    return "grounded" in said or said.get("architectures", [""])[0] in (
        "Sa2VAChatModel",
        "SeCModel",
    )


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
