"""A grounded model as a folder that others can load, written whole or not at all.

    model-*.safetensors   the language model in one of two layouts, and, under the names of Sa2VA's
                          releases, SAM 2, text_hidden_fcs and the other heads
    config.json           that language model's, with the section "grounded" for the rest
    adapter/              LoRA in peft's files, where it is kept
    tokenizer, processor_config.json, generation_config.json, README.md

``transformers`` layout: stock ``InternVLForConditionalGeneration`` (or Qwen-VL's class) loads the
language model. ``original`` layout, of InternVL alone: the names and ``config.json`` of InternVL's
and Sa2VA's own code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from projects.common.checkpoint import State
from projects.common.freezing import merge_lora
from projects.llava_sam2.hf.adapter import has_lora, split_lora, write_adapter
from projects.llava_sam2.hf.architectures import to_original
from projects.llava_sam2.hf.described import ONLY_TRAIN, describe_heads, tile_settings
from projects.llava_sam2.hf.grounding import HEADS, PROJECTOR, grounding_state, sec_settings
from projects.llava_sam2.hf.names import OriginalNames
from projects.llava_sam2.hf.processors import write_json, write_processor
from projects.llava_sam2.hf.shards import parse_size, wanted, write_shards
from projects.llava_sam2.models.mllm import InternVL
from projects.llava_sam2.models.qwen_vl import QwenVL
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.sam2_video.modeling.tracker import TrackingPolicy

Layout = Literal["transformers", "original"]
LAYOUTS = ("transformers", "original")
CARD = "README.md"
FORMAT = 1
_PROJECTOR = "text_hidden_fcs"
_CONCEPT = "token_attn"


@dataclass
class Exported:
    """What was written."""

    folder: Path
    layout: str
    files: list[str]
    tensors: int
    merged: int = 0  # LoRA layers folded into their weights
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lora = f", {self.merged} LoRA layers merged" if self.merged else ""
        lines = [
            f"{self.folder}: {self.tensors} tensors in {len(self.files)} files "
            f"({self.layout} layout{lora})"
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def export(
    model: Sa2VA,
    folder: str | Path,
    *,
    layout: Layout = "transformers",
    keep_lora: bool = False,
    max_shard_size: str = "5GB",
    dtype: torch.dtype | None = None,
    ask: dict[str, Any] | None = None,
    track: dict[str, Any] | None = None,
    concept: nn.Module | None = None,
    card: str | None = None,
    force: bool = False,
) -> Exported:
    """Write ``model`` to ``folder``. LoRA that is not kept is merged into the model, in place.

    Args:
        layout: see the top of this file.
        keep_lora: write LoRA beside the base weights; only in the transformers layout, because
            peft's files name modules of its classes.
        max_shard_size: such as ``5GB``.
        dtype: of floating tensors; None leaves each as it is.
        ask: how the model is asked: ``inputs``, ``frames`` and so on, from
            :mod:`projects.llava_sam2.hf.described`.
        track: how it tracks with guidance, from :mod:`projects.llava_sam2.sec.described`.
        concept: SeC's ``token_attn``, where no head holds it.
        card: text of README.md.
        force: replace ``folder``.

    Raises:
        FileExistsError: ``folder`` is there.
        ValueError: options that exclude each other, or a part that has no place in a folder.
    """
    folder = Path(folder)
    _check(model, folder, layout, keep_lora, force)
    concept = _held_concept(model) if concept is None else concept
    max_bytes = parse_size(max_shard_size)
    merged, layers = 0, model.mllm.language_model.norm.weight.dtype
    if has_lora(model.mllm.model) and not keep_lora:
        merged = merge_lora(model.mllm.language_model, dtype=dtype)
    said, notes = describe(model, ask=ask, track=track)
    base, lora = split_lora(wanted(model.mllm.model))
    state = folder_state(model, base, layout=layout, concept=concept)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.mkdir()
        files = write_shards(partial, state, max_size=max_bytes, dtype=dtype)
        if merged:  # in the file's precision until now; the model runs in its own
            cast_frozen(model.mllm.language_model.layers, layers)
        if lora:
            write_adapter(partial, model.mllm.model, lora)
        _write_config(partial, model, said, layout, concept is not None, dtype)
        write_processor(partial, model.mllm, tiles=None if ask is None else ask["inputs"]["tiles"])
        (partial / CARD).write_text(card or "", encoding="utf-8")
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(folder, layout, files, len(state), merged, notes)


def describe(
    model: Sa2VA, *, ask: dict[str, Any] | None, track: dict[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The section "grounded" of ``config.json``: what is beside the language model."""
    heads, notes = describe_heads(model.heads)
    policy = model.inference_policy
    said = {
        "format": FORMAT,
        "template": model.mllm.template,
        "tile_size": model.mllm.tile_size,
        "sam2": model.grounding.blocks.config.to_dict(),
        "heads": heads,
        "policy": None if policy is None else _plain_policy(policy),
        "ask": ask,
        "track": track,
    }
    return json.loads(json.dumps(said)), notes  # tuples become lists now, not when it is read


def folder_state(
    model: Sa2VA, language: State, *, layout: Layout, concept: nn.Module | None = None
) -> State:
    """All tensors under the names of a folder.

    Args:
        language: of ``model.mllm.model``, without LoRA.
        concept: SeC's ``token_attn``, a head's or not.
    """
    if layout == "original":
        language = OriginalNames(model.mllm.model.config).to_original(language)
    heads: State = {}
    first = next((t for t in model.heads if hasattr(model.heads[t], _PROJECTOR)), None)
    for task, head in model.heads.items():
        if isinstance(head, ONLY_TRAIN):
            continue
        for name, tensor in head.state_dict().items():
            if task == first and name.startswith(PROJECTOR):
                heads[name] = tensor
            elif not name.startswith(f"{_CONCEPT}."):
                heads[f"{HEADS}{task}.{name}"] = tensor
    return language | grounding_state(model.grounding, concept=concept) | heads


def cast_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def _held_concept(model: Sa2VA) -> nn.Module | None:
    """The ``token_attn`` of the first head that has one."""
    held = (getattr(head, _CONCEPT) for head in model.heads.values() if hasattr(head, _CONCEPT))
    return next(held, None)


# ---- the small files --------------------------------------------------------------------------


def _write_config(
    folder: Path,
    model: Sa2VA,
    said: dict[str, Any],
    layout: Layout,
    is_sec: bool,
    dtype: torch.dtype | None,
) -> None:
    mllm, config = model.mllm, model.mllm.model.config
    stored = str(dtype or mllm.language_model.norm.weight.dtype).removeprefix("torch.")
    if layout == "original":
        names = ("SeCModel", "sec") if is_sec else ("Sa2VAChatModel", "sa2va_chat")
        plain = {
            "architectures": [names[0]],
            "model_type": names[1],
            "template": mllm.template,
            "torch_dtype": stored,
            "use_backbone_lora": 0,
            "use_llm_lora": 0,
            **to_original(config),
            **tile_settings(said["ask"]),
            **(sec_settings(model.grounding) if is_sec else {}),
        }
    else:
        plain = config.to_dict() | {
            "architectures": [type(mllm.model).__name__],
            "dtype": stored,
        }
    write_json(folder / "config.json", plain | {"grounded": said})


def _plain_policy(policy: TrackingPolicy) -> dict[str, Any]:
    said = dataclasses.asdict(policy)
    dtype = said["memory_dtype"]
    return said | {"memory_dtype": None if dtype is None else str(dtype).removeprefix("torch.")}


# ---- places -----------------------------------------------------------------------------------


def check_place(folder: Path, force: bool) -> None:
    """Find out before a model is built whether the folder may be written.

    Raises:
        FileExistsError: it is there, or it is no export that ``force`` could replace.
    """
    if not folder.exists():
        return
    if not force:
        raise FileExistsError(f"{folder} exists; choose another name, or replace it by --force")
    if not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} holds no config.json, so it is no export: not replaced")


def _check(model: Sa2VA, folder: Path, layout: str, keep_lora: bool, force: bool) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
    if not isinstance(model.mllm, (InternVL, QwenVL)):
        raise ValueError(
            f"a {type(model.mllm).__name__} has no folder layout, InternVL and Qwen-VL have: ask "
            "it from its config and work dir"
        )
    if layout == "original" and not isinstance(model.mllm, InternVL):
        raise ValueError(
            f"the original layout is InternVL's; a {type(model.mllm).__name__} was released in "
            "transformers': write the transformers layout"
        )
    check_place(folder, force)
    if keep_lora and layout == "original":
        raise ValueError(
            "LoRA is kept in peft's files, which name the modules of transformers' classes: write "
            "the transformers layout, or merge LoRA"
        )
    if keep_lora and not has_lora(model.mllm.model):
        raise ValueError("there is no LoRA to keep in this model")


def _put_in_place(partial: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(partial, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
