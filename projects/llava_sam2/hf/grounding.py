"""The segmentation part of released grounded models: names, and what is beside SAM 2 in it.

    grounding_encoder.sam2_model.*   Sa2VA: SAM 2 under Meta's names
    grounding_encoder.*              SeC: the same without the level, 22 memory slots
    grounding_encoder.token_attn.*   SeC: concept attention, built like memory_attention
    text_hidden_fcs.{0,2}.*          the MLP from the language model to SAM 2
    grounding_encoder.propagation_decoder.*, heads.<task>.*     ours, where a model has them

transformers renames "gamma" while it loads, so both call the memory encoder's scale ``g_weight``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Sam2VideoConfig

from projects.common.checkpoint import State, load_state, rename
from projects.common.partition import copied, cut
from projects.llava_sam2.hf.shards import TensorFolder
from projects.sam2_video.modeling import Sam2, build_sam2, sam2_config
from projects.sam2_video.modeling.meta_weights import (
    FROM_META,
    TO_META,
    from_meta_names,
    to_meta_state,
)
from projects.sam2_video.pretrained import load_sam2_state, weights_kind

ENCODER, INNER = "grounding_encoder.", "sam2_model."
CONCEPT, KEPT = "token_attn.", "propagation_decoder."
PROJECTOR, HEADS = "text_hidden_fcs.", "heads."
GROUNDING_PREFIXES = (ENCODER, PROJECTOR, HEADS)
_THEIRS, _METAS = ".g_weight", ".gamma"
_YAMLS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}  # Meta's, by their ends


@dataclass
class GroundingNames:
    """Which tensors of a folder belong to what; each maps a plain name to the folder's."""

    sam2: dict[str, str] = field(default_factory=dict)  # Meta's names
    concept: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    projector: dict[str, str] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)  # "<task>.<parameter>"

    def __bool__(self) -> bool:
        return bool(self.sam2)


def sort_names(names: Iterable[str]) -> GroundingNames:
    """Names of a folder by part; what is not the segmentation part's is left aside."""
    found = GroundingNames()
    for name in names:
        if name.startswith(ENCODER):
            inner = name.removeprefix(ENCODER).removeprefix(INNER)
            if inner.startswith(CONCEPT):
                found.concept[inner.removeprefix(CONCEPT)] = name
            elif inner.startswith(KEPT):
                found.kept[inner.removeprefix(KEPT)] = name
            else:
                found.sam2[inner.replace(_THEIRS, _METAS)] = name
        elif name.startswith(PROJECTOR):
            found.projector[name.removeprefix(PROJECTOR)] = name
        elif name.startswith(HEADS):
            found.heads[name.removeprefix(HEADS)] = name
    return found


def read_named(source: TensorFolder, names: Mapping[str, str]) -> State:
    """Tensors by their plain names, float32.

    Under ``torch.device("meta")`` their shapes alone, so that a folder is checked and not read.
    """
    if torch.get_default_device().type == "meta":
        return {ours: torch.empty(source.shapes[theirs]) for ours, theirs in names.items()}
    plain = {theirs: ours for ours, theirs in names.items()}
    return {plain[name]: tensor.float() for name, tensor in source.read(names.values())}


def grounding_config(
    source: TensorFolder,
    names: GroundingNames,
    config: Mapping[str, Any],
    *,
    image_size: int,
) -> Sam2VideoConfig:
    """The SAM 2 that a folder holds: as its config says, or as its tensors tell.

    Raises:
        ValueError: tensors of none of the released sizes, and no config that describes them.
    """
    described = config.get("grounded", {}).get("sam2")
    if described is not None:
        return Sam2VideoConfig.from_dict(described)
    shapes = {
        name: torch.empty(source.shapes[theirs], device="meta")
        for name, theirs in names.sam2.items()
    }
    kind = weights_kind(from_meta_names(shapes, where=str(source.folder)))
    if kind is None or kind.size is None:
        raise ValueError(
            f"{source.folder}: {ENCODER}* is no SAM 2 of a released size, or only a part of one"
        )
    return sam2_config(
        kind.size, image_size=image_size, num_maskmem=kind.num_maskmem, version=kind.version
    )


def sec_settings(sam2: Sam2) -> dict[str, Any]:
    """What SeC's own code reads of ``config.json`` to build its SAM 2: Meta's yaml and the slots.

    A size that was never released has no yaml.
    """
    kind = weights_kind(sam2.blocks.state_dict())
    said: dict[str, Any] = {"grounding_maskmem_num": sam2.num_maskmem}
    if kind is None or kind.size is None:
        return said
    name = "sam2" if kind.version == "2.0" else f"sam{kind.version}"
    yaml = f"{name}/{name}_hiera_{_YAMLS[kind.size]}.yaml"
    return {"grounding_encoder_config": yaml, **said}


def load_grounding(source: TensorFolder, names: GroundingNames, config: Sam2VideoConfig) -> Sam2:
    """SAM 2 with the folder's weights, in float32: its position tables suffer from less."""
    sam2 = build_sam2(config)
    state = from_meta_names(read_named(source, names.sam2), where=str(source.folder))
    version = "2.1" if config.enable_occlusion_spatial_embedding else "2.0"
    load_sam2_state(sam2, state, version=version, where=str(source.folder))
    cut(sam2.parameters())
    return sam2


def load_concept_attention(source: TensorFolder, names: GroundingNames, sam2: Sam2) -> nn.Module:
    """SeC's ``token_attn`` as a module of its own, built like SAM 2's memory attention."""
    module = copied(sam2.blocks.memory_attention)
    state = read_named(source, names.concept)
    load_state(module, _renamed(state, "memory_attention.", FROM_META), where="token_attn")
    return module


def load_kept_decoder(source: TensorFolder, names: GroundingNames, sam2: Sam2) -> None:
    """The decoder that propagates, into the ``propagation_decoder`` that the model keeps.

    Raises:
        ValueError: the model keeps none.
    """
    if sam2.propagation_decoder is None:
        raise ValueError(
            f"{source.folder} holds a decoder for propagation beside the tuned one; build the "
            "model with propagation_decoder='original'"
        )
    state = read_named(source, names.kept)
    renamed = rename({f"sam_mask_decoder.{k}": v for k, v in state.items()}, FROM_META, where=KEPT)
    plain = {key.removeprefix("mask_decoder."): value for key, value in renamed.items()}
    load_state(sam2.propagation_decoder, plain, where=f"{source.folder}: {ENCODER}{KEPT}*")


def grounding_state(sam2: Sam2, *, concept: nn.Module | None = None) -> State:
    """SAM 2 (and concept attention) under the names of a released folder, Sa2VA's by level.

    SeC's folders lack the level ``sam2_model``; with a concept attention they are followed.
    """
    level = ENCODER if concept is not None else ENCODER + INNER
    state: dict[str, Tensor] = {
        level + key.replace(_METAS, _THEIRS): value for key, value in to_meta_state(sam2).items()
    }
    if concept is not None:
        renamed = _renamed(concept.state_dict(), "memory_attention.", TO_META)
        state |= {ENCODER + CONCEPT + key: value for key, value in renamed.items()}
    if sam2.propagation_decoder is not None:
        own = sam2.propagation_decoder.state_dict()
        named = rename({f"mask_decoder.{k}": v for k, v in own.items()}, TO_META, where=KEPT)
        state |= {
            ENCODER + KEPT + key.removeprefix("sam_mask_decoder."): value
            for key, value in named.items()
        }
    return state


def _renamed(state: State, prefix: str, rules: list) -> State:
    """Names of one module through the table of the whole model; the prefix is alike in both."""
    named = rename({prefix + k: v for k, v in state.items()}, rules, where=prefix)
    return {key.removeprefix(prefix): value for key, value in named.items()}
