"""Grounded models from folders: Sa2VA's and SeC's releases, and exports of ours.

    folder ─┬─► InternVL, Qwen-VL ──────────────────┐
            ├─► SAM 2, the decoder kept beside it ───┤
            ├─► text_hidden_fcs ─► heads ────────────┼─► Sa2VA, to train on or to ask
            ├─► token_attn ─► a concept head ────────┤
            └─► adapter/ ─► LoRA ────────────────────┘

Nothing of a folder is dropped without being named in ``leave_out``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from projects.common.checkpoint import State, load_state
from projects.llava_sam2.hf.adapter import ADAPTER, load_adapter, read_adapter
from projects.llava_sam2.hf.config_file import buildable, read_config
from projects.llava_sam2.hf.described import build_heads
from projects.llava_sam2.hf.grounding import (
    GroundingNames,
    grounding_config,
    load_concept_attention,
    load_grounding,
    load_kept_decoder,
    read_named,
    sort_names,
)
from projects.llava_sam2.hf.internvl import internvl_from_folder
from projects.llava_sam2.hf.qwen_vl import qwen_kind, qwen_vl_from_folder
from projects.llava_sam2.hf.shards import TensorFolder
from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.heads import ChatHead, SegmentHead, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.sam2_video.modeling import Sam2, build_sam2, sam2_config
from projects.sam2_video.modeling.tracker import TrackingPolicy
from projects.sam2_video.pretrained import read_sam2_state

logger = logging.getLogger(__name__)

CONCEPT_PART, KEPT_PART = "token_attn", "propagation_decoder"


@dataclass
class GroundedParts:
    """What a folder holds, built; ``projector`` and ``concept`` are for heads to take."""

    mllm: LanguageAdapter
    grounding: Sam2
    projector: nn.Module  # text_hidden_fcs: hidden size to SAM 2's width
    concept: nn.Module | None = None  # SeC's token_attn, built like SAM 2's memory attention
    said: dict[str, Any] = field(default_factory=dict)  # config.json
    head_states: dict[str, State] = field(default_factory=dict)  # by task, beside the projector


def grounded_parts(
    *,
    path: str | Path,
    template: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    image_size: int = 1024,
    attn: str = "sdpa",
    dtype: str = "bfloat16",
    gradient_checkpointing: bool = False,
) -> GroundedParts:
    """The parts of a Sa2VA, SeC or exported folder.

    Args:
        image_size: side of SAM 2's input, where the folder does not say it.
        dtype: of the language model; SAM 2 and the projector are float32.

    Further arguments as in :func:`projects.llava_sam2.hf.internvl.internvl_from_folder`.

    Raises:
        FileNotFoundError, ValueError: as there; also a folder without a segmentation part.
    """
    folder = Path(path)
    said = read_config(folder)
    source = TensorFolder(folder)
    names = _grounding_names(source)
    with buildable(folder):
        sam2_cfg = grounding_config(source, names, said, image_size=image_size)
    load, further = internvl_from_folder, dict[str, Any]()
    if qwen_kind(said) is not None:
        own = said.get("grounded", {})
        load, further = qwen_vl_from_folder, {"tile_size": own.get("tile_size", 448)}
        template = template or own.get("template")
    mllm = load(
        path=folder,
        template=template,
        tokenizer=tokenizer,
        attn=attn,
        dtype=dtype,
        gradient_checkpointing=gradient_checkpointing,
        **further,
    )
    projector = _projector(source, names, mllm, sam2_cfg.vision_config.fpn_hidden_size)
    grounding = load_grounding(source, names, sam2_cfg)
    state = read_named(source, names.projector)
    load_state(projector, state, where=f"{folder}: text_hidden_fcs")
    concept = load_concept_attention(source, names, grounding) if names.concept else None
    heads: dict[str, State] = {}
    for key, tensor in read_named(source, names.heads).items():
        task, _, name = key.partition(".")
        heads.setdefault(task, {})[name] = tensor
    return GroundedParts(mllm, grounding, projector, concept, said, heads)


def sa2va_from_folder(
    *,
    path: str | Path | None,
    size: str | None = None,
    heads: Mapping[str, nn.Module] | None = None,
    trainable: Sequence[str] = (),
    lora: Mapping[str, Any] | None = None,
    propagation_decoder: Literal["original", "tuned"] | None = None,
    original_sam2: str | Path | None = None,
    leave_out: Sequence[str] = (),
    template: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    image_size: int = 1024,
    attn: str = "sdpa",
    dtype: str = "bfloat16",
    gradient_checkpointing: bool = False,
    touch_all: bool = False,
) -> Sa2VA:
    """A grounded model with the weights of a folder: a start to train from, or one to ask.

    Args:
        path: ``ByteDance/Sa2VA-*``, ``OpenIXCLab/SeC-4B`` or an export of ours; None: random
            weights, for which ``size`` names the language model and SAM 2 is the large one.
        heads: by task; None: those that the folder describes, or ``segment`` and ``chat``. A head
            with ``text_hidden_fcs`` or ``token_attn`` takes the folder's.
        trainable, lora, touch_all: as in ``Sa2VA``. A folder with a LoRA adapter brings its own.
        propagation_decoder: as in ``Sa2VA``; None: "original" where the folder or
            ``original_sam2`` has one, else "tuned".
        original_sam2: SAM 2's released weights (any form), whose mask decoder propagates while the
            folder's prompts (Sa2VA-i, arXiv 2509.19082).
        leave_out: parts of the folder that nothing takes and that may be missed: ``token_attn``,
            ``propagation_decoder``, or names of tasks.

    Further arguments as in :func:`grounded_parts`.

    Raises:
        FileNotFoundError, ValueError: as there; also a part that no head takes, or a LoRA beside
            the folder's adapter.
    """
    shared = dict(
        template=template,
        tokenizer=tokenizer,
        attn=attn,
        dtype=dtype,
        gradient_checkpointing=gradient_checkpointing,
    )
    if path is None:
        parts, names, adapter = _random_parts(size, image_size, shared), GroundingNames(), None
    else:
        if size is not None:
            raise ValueError("give path (a folder) or size (random weights), one of them")
        names = _grounding_names(TensorFolder(path))
        adapter = read_adapter(Path(path))
        if adapter is not None and lora is not None:
            raise ValueError(
                f"{path} holds a LoRA ({ADAPTER}/) of its own: leave lora out to go on with it, or "
                "export the model with LoRA merged"
            )
        parts = grounded_parts(path=path, image_size=image_size, **shared)
    where = str(path or size)
    described = parts.said.get("grounded", {})
    with buildable(where):
        policy = read_policy(described.get("policy"), where)
        if heads is None:
            own = described.get("heads")
            heads = _plain_heads(parts) if own is None else build_heads(own, where=where)
    _hand_out(parts, heads, leave_out, where)
    kept = bool(names.kept) and KEPT_PART not in leave_out
    has_original = kept or original_sam2 is not None
    model = Sa2VA(
        mllm=parts.mllm,
        grounding=parts.grounding,
        heads=heads,
        trainable=trainable,
        lora=lora if adapter is None else adapter.settings(),
        propagation_decoder=propagation_decoder or ("original" if has_original else "tuned"),
        touch_all=touch_all,
        inference_policy=policy,
    )
    on_meta = torch.get_default_device().type == "meta"
    if adapter is not None and not on_meta:
        load_adapter(model.mllm, adapter)
    if original_sam2 is not None:
        _take_decoder(model.grounding, original_sam2)
    elif kept and not on_meta:
        load_kept_decoder(TensorFolder(path), names, model.grounding)
    return model


def _grounding_names(source: TensorFolder) -> GroundingNames:
    names = sort_names(source.names())
    if not names:
        raise ValueError(
            f"{source.folder} holds no grounding_encoder: it is a language model alone. Build "
            "Sa2VA with internvl_from_folder and pretrained_sam2 instead"
        )
    return names


def _projector(
    source: TensorFolder, names: GroundingNames, mllm: LanguageAdapter, width: int
) -> nn.Sequential:
    weight = names.projector.get("2.weight")
    if weight is None:
        raise ValueError(f"{source.folder} lacks text_hidden_fcs.2.weight, from [SEG] to SAM 2")
    out = source.shapes[weight][0]
    if out != width:
        raise ValueError(
            f"{source.folder}: text_hidden_fcs gives {out} channels, and its SAM 2 takes {width}"
        )
    return seg_projector(hidden=mllm.hidden_size, out=out)


def _random_parts(size: str | None, image_size: int, shared: Mapping[str, Any]) -> GroundedParts:
    mllm = internvl_from_folder(path=None, size=size, **shared)
    grounding = build_sam2(sam2_config("large", image_size=image_size))
    return GroundedParts(
        mllm, grounding, seg_projector(hidden=mllm.hidden_size, out=grounding.hidden)
    )


def _plain_heads(parts: GroundedParts) -> dict[str, nn.Module]:
    return {"segment": SegmentHead(projector=parts.projector), "chat": ChatHead()}


def _hand_out(
    parts: GroundedParts, heads: Mapping[str, nn.Module], leave_out: Sequence[str], where: str
) -> None:
    """Give the folder's weights to the heads, each to one that has a place for it."""
    taken = []
    for task, head in heads.items():
        if hasattr(head, "start_from"):  # gives it the modules that the folder's weights go into
            head.start_from(parts.grounding)
        own = parts.head_states.get(task, {})
        beside = dict(own)
        if hasattr(head, "text_hidden_fcs") and not any(k.startswith("text_hidden") for k in own):
            beside |= _prefixed("text_hidden_fcs.", parts.projector)
        if parts.concept is not None and hasattr(head, CONCEPT_PART):
            beside |= _prefixed(f"{CONCEPT_PART}.", parts.concept)
            taken.append(CONCEPT_PART)
        if beside:
            load_state(head, beside, where=f"{where}: head {task!r}")
    left = [task for task in parts.head_states if task not in heads]
    if parts.concept is not None and CONCEPT_PART not in taken:
        left.append(CONCEPT_PART)
    lost = [name for name in left if name not in leave_out]
    if lost:
        raise ValueError(
            f"{where} holds {', '.join(lost)}, and no head of the model takes it (it has "
            f"{', '.join(heads) or 'none'}): add such a head, or say leave_out={lost!r}"
        )
    for name in left:
        logger.warning("%s: %s is left out, as asked", where, name)


def _prefixed(prefix: str, module: nn.Module) -> State:
    return {prefix + key: value for key, value in module.state_dict().items()}


def read_policy(said: Mapping[str, Any] | None, where: str) -> TrackingPolicy | None:
    """The policy of tracking that a ``config.json`` describes.

    Raises:
        ValueError: a key or value that does not exist.
    """
    if said is None:
        return None
    kept = {key: value for key, value in said.items() if key != "memory_dtype"}
    dtype = said.get("memory_dtype")
    try:
        return TrackingPolicy(**kept, memory_dtype=getattr(torch, dtype) if dtype else None)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{where}: policy: {error}") from error


def _take_decoder(sam2: Sam2, path: str | Path) -> None:
    """SAM 2's released mask decoder as the one that propagates."""
    if sam2.propagation_decoder is None:
        raise ValueError("original_sam2 needs propagation_decoder='original'")
    state = read_sam2_state(path)
    inner = {
        key.removeprefix("mask_decoder."): value
        for key, value in state.items()
        if key.startswith("mask_decoder.")
    }
    load_state(sam2.propagation_decoder, inner, where=f"{path}: mask decoder")
