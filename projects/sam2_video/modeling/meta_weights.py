"""Meta's SAM 2 checkpoints to transformers' names and back.

Two things are more than new names: Meta has one embedding module for each point label, we have one
table of four; and the matrix of the point code, which Meta holds once, transformers holds twice.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from projects.common.checkpoint import (
    LoadReport,
    Rename,
    State,
    load_state,
    name_rule,
    read_state,
    rename,
)

from .blocks import Sam2

# Names by section: prefix of Meta's, prefix of ours, and pairs of what follows.
# "#" is a number, "@" stands for ".weight" or ".bias"; one name for both is written once.
_SECTIONS: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...] = (
    (
        "image_encoder.trunk.",
        "vision_encoder.backbone.",
        (
            ("pos_embed",),
            ("pos_embed_window",),
            ("patch_embed.proj@", "patch_embed.projection@"),
            ("blocks.#.norm#@", "blocks.#.layer_norm#@"),
            ("blocks.#.attn.qkv@",),
            ("blocks.#.attn.proj@",),
            ("blocks.#.proj@",),
            ("blocks.#.mlp.layers.0@", "blocks.#.mlp.proj_in@"),
            ("blocks.#.mlp.layers.1@", "blocks.#.mlp.proj_out@"),
        ),
    ),
    ("image_encoder.neck.", "vision_encoder.neck.", (("convs.#.conv@", "convs.#@"),)),
    (
        "memory_attention.",
        "memory_attention.",
        (
            ("norm@", "layer_norm@"),
            ("layers.#.norm#@", "layers.#.layer_norm#@"),
            ("layers.#.linear#@",),
            *(
                (f"layers.#.{attention}.{theirs}@", f"layers.#.{attention}.{ours}@")
                for attention in ("self_attn", "cross_attn_image")
                for theirs, ours in zip(
                    ("q_proj", "k_proj", "v_proj", "out_proj"),
                    ("q_proj", "k_proj", "v_proj", "o_proj"),
                    strict=True,
                )
            ),
        ),
    ),
    (
        "memory_encoder.",
        "memory_encoder.",
        (
            ("pix_feat_proj@", "feature_projection@"),
            ("out_proj@", "projection@"),
            ("fuser.layers.#.gamma", "memory_fuser.layers.#.scale"),
            ("fuser.layers.#.dwconv@", "memory_fuser.layers.#.depthwise_conv@"),
            ("fuser.layers.#.norm@", "memory_fuser.layers.#.layer_norm@"),
            ("fuser.layers.#.pwconv#@", "memory_fuser.layers.#.pointwise_conv#@"),
            # a flat list of convolution, norm and activation, four times; then the last convolution
            *(
                (f"mask_downsampler.encoder.{3 * layer + part}@",)
                + (f"mask_downsampler.layers.{layer}.{name}@",)
                for layer in range(4)
                for part, name in enumerate(("conv", "layer_norm"))
            ),
            ("mask_downsampler.encoder.12@", "mask_downsampler.final_conv@"),
        ),
    ),
    (
        "sam_prompt_encoder.",
        "prompt_encoder.",
        (
            ("not_a_point_embed.weight",),
            ("no_mask_embed.weight",),
            ("point_embeddings.weight", "point_embed.weight"),
            (
                "pe_layer.positional_encoding_gaussian_matrix",
                "shared_embedding.positional_embedding",
            ),
            ("mask_downscaling.0@", "mask_embed.conv1@"),
            ("mask_downscaling.1@", "mask_embed.layer_norm1@"),
            ("mask_downscaling.3@", "mask_embed.conv2@"),
            ("mask_downscaling.4@", "mask_embed.layer_norm2@"),
            ("mask_downscaling.6@", "mask_embed.conv3@"),
        ),
    ),
    (
        "sam_mask_decoder.",
        "mask_decoder.",
        (
            ("iou_token.weight",),
            ("mask_tokens.weight",),
            ("obj_score_token.weight",),
            ("conv_s0@",),
            ("conv_s1@",),
            ("output_upscaling.0@", "upscale_conv1@"),
            ("output_upscaling.1@", "upscale_layer_norm@"),
            ("output_upscaling.3@", "upscale_conv2@"),
            ("transformer.norm_final_attn@", "transformer.layer_norm_final_attn@"),
            ("transformer.layers.#.norm#@", "transformer.layers.#.layer_norm#@"),
            ("transformer.layers.#.mlp.layers.0@", "transformer.layers.#.mlp.proj_in@"),
            ("transformer.layers.#.mlp.layers.1@", "transformer.layers.#.mlp.proj_out@"),
            *(
                (f"transformer.{attention}.{theirs}@", f"transformer.{attention}.{ours}@")
                for attention in (
                    "layers.#.self_attn",
                    "layers.#.cross_attn_token_to_image",
                    "layers.#.cross_attn_image_to_token",
                    "final_attn_token_to_image",
                )
                for theirs, ours in zip(
                    ("q_proj", "k_proj", "v_proj", "out_proj"),
                    ("q_proj", "k_proj", "v_proj", "o_proj"),
                    strict=True,
                )
            ),
            *(
                (f"{head}.layers.{number}@", f"{head}.{name}@")
                for head in (
                    "output_hypernetworks_mlps.#",
                    "iou_prediction_head",
                    "pred_obj_score_head",
                )
                for number, name in enumerate(("proj_in", "layers.0", "proj_out"))
            ),
        ),
    ),
    (
        "",
        "",
        (
            ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
            ("no_mem_embed", "no_memory_embedding"),
            ("no_mem_pos_enc", "no_memory_positional_encoding"),
            ("no_obj_ptr", "no_object_pointer"),
            ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
            ("mask_downsample@",),
            ("obj_ptr_tpos_proj@", "temporal_positional_encoding_projection_layer@"),
            ("obj_ptr_proj.layers.0@", "object_pointer_proj.proj_in@"),
            ("obj_ptr_proj.layers.1@", "object_pointer_proj.layers.0@"),
            ("obj_ptr_proj.layers.2@", "object_pointer_proj.proj_out@"),
        ),
    ),
)

_POINT_LABELS = 4
_POINT_TABLE = "sam_prompt_encoder.point_embeddings.weight"
_POINT_ROW = "sam_prompt_encoder.point_embeddings.{}.weight"
_POINT_CODE = "prompt_encoder.shared_embedding.positional_embedding"
_POINT_CODE_TWIN = "shared_image_embedding.positional_embedding"
_TEMPORAL = "maskmem_tpos_enc"


def _rules(*, to_meta: bool) -> list[Rename]:
    rules = []
    for theirs, ours, pairs in _SECTIONS:
        for pair in pairs:
            names = (theirs + pair[0], ours + pair[-1])
            rules.append(name_rule(*(names[::-1] if to_meta else names)))
    return rules


FROM_META = _rules(to_meta=False)
TO_META = _rules(to_meta=True)


def from_meta_names(state: State, *, where: str = "the state") -> State:
    """Meta's names to those of transformers' ``Sam2VideoModel``.

    Raises:
        ValueError: a key that is not SAM 2's, or a point label without its embedding.
    """
    state = dict(state)
    rows = [state.pop(_POINT_ROW.format(label), None) for label in range(_POINT_LABELS)]
    if any(row is None for row in rows):
        raise ValueError(
            f"{where} is not a SAM 2 checkpoint of Meta's: it lacks {_POINT_ROW.format('0..3')}"
        )
    state[_POINT_TABLE] = torch.cat(rows)
    renamed = rename(state, FROM_META, where=where)
    if _POINT_CODE in renamed:
        renamed[_POINT_CODE_TWIN] = renamed[_POINT_CODE]
    return renamed


def to_meta_names(state: State, *, where: str = "the state") -> State:
    """Names of transformers' ``Sam2VideoModel`` to Meta's.

    Raises:
        ValueError: a key that is not SAM 2's.
    """
    state = {key: value for key, value in state.items() if key != _POINT_CODE_TWIN}
    renamed = rename(state, TO_META, where=where)
    table = renamed.pop(_POINT_TABLE)
    for label, row in enumerate(table.split(1)):
        renamed[_POINT_ROW.format(label)] = row.clone()
    return renamed


def to_meta_state(model: Sam2) -> State:
    """The model's weights under Meta's names; save them as ``{"model": state}``."""
    state = {key: value.detach() for key, value in model.blocks.state_dict().items()}
    return to_meta_names(state, where="the model")


def load_meta_checkpoint(model: Sam2, path: str | os.PathLike[str]) -> LoadReport:
    """Load a checkpoint of Meta's (SAM 2 or 2.1) into a model of its size and version.

    A model with another number of memory slots takes the temporal table resampled; the report
    says so.

    Raises:
        FileNotFoundError, ValueError: as ``read_state`` and ``load_state``; in particular a SAM 2.0
            file for a 2.1 model, which has parameters that the file lacks.
    """
    return load_meta_state(model, read_state(path), where=str(Path(path)))


def load_meta_state(model: Sam2, state: State, *, where: str) -> LoadReport:
    """Load tensors under Meta's names; see ``load_meta_checkpoint``."""
    state, notes = dict(state), []
    table = state.get(_TEMPORAL)
    if table is not None and len(table) != model.num_maskmem:
        state[_TEMPORAL] = resample_memory_slots(table, model.num_maskmem)
        notes.append(
            f"{_TEMPORAL}: {len(table)} memory slots resampled to {model.num_maskmem} "
            "(linear, first and last kept)"
        )
    renamed = from_meta_names(state, where=where)
    report = load_state(model.blocks, renamed, where=where)
    report.notes += notes
    return report


def resample_memory_slots(table: torch.Tensor, slots: int) -> torch.Tensor:
    """Resample the temporal table [old, 1, 1, D] to [slots, 1, 1, D], linear, ends aligned.

    The first slot (the previous frame) and the last (conditioning frames) stay what they are.

    Raises:
        ValueError: a table of another shape, or fewer than two slots.
    """
    if table.ndim != 4 or table.shape[1:3] != (1, 1):
        raise ValueError(f"{_TEMPORAL} must be [slots, 1, 1, D], got {tuple(table.shape)}")
    if slots < 2 or len(table) < 2:
        raise ValueError(f"cannot resample {len(table)} memory slots to {slots}: both need 2")
    line = table[:, 0, 0].float().T[None]  # [1, D, old]
    line = interpolate(line, slots, mode="linear", align_corners=True)
    return line[0].T[:, None, None].to(table.dtype).contiguous()
