"""Sizes of SAM 2 as transformers configurations.

``sam2_config`` gives the four released Hiera sizes at any image size; ``toy_config`` the small
three-stage model that learns from scratch on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import Sam2VideoConfig


@dataclass(frozen=True)
class HieraSize:
    """What tells one released image encoder from another (Hiera, arXiv 2306.00989)."""

    embed_dim: int
    heads: int
    blocks: tuple[int, int, int, int]
    global_blocks: tuple[int, int, int]
    background: int
    windows: tuple[int, int, int, int]


SIZES = {
    "tiny": HieraSize(96, 1, (1, 2, 7, 2), (5, 7, 9), 7, (8, 4, 14, 7)),
    "small": HieraSize(96, 1, (1, 2, 11, 2), (7, 10, 13), 7, (8, 4, 14, 7)),
    "base_plus": HieraSize(112, 2, (2, 3, 16, 3), (12, 16, 20), 14, (8, 4, 14, 7)),
    "large": HieraSize(144, 2, (2, 6, 36, 4), (23, 33, 43), 7, (8, 4, 16, 8)),
}


def sam2_config(
    size: str,
    *,
    image_size: int = 1024,
    num_maskmem: int = 7,
    version: str = "2.1",
    dropout: float = 0.1,
) -> Sam2VideoConfig:
    """Configuration of a released SAM 2.

    Args:
        size: ``tiny``, ``small``, ``base_plus`` or ``large``.
        image_size: side of the square input in pixels, a multiple of 32.
        num_maskmem: frames of mask memory (7 as released; 22 in SeC).
        version: ``2.1``, or ``2.0`` without the temporal code of object pointers and without the
            spatial embedding of an absent object.
        dropout: of the memory attention while training.

    Raises:
        ValueError: unknown size or version, or an image size that Hiera cannot halve five times.
    """
    if size not in SIZES:
        raise ValueError(f"unknown SAM 2 size {size!r}; choose one of {', '.join(SIZES)}")
    if version not in ("2.0", "2.1"):
        raise ValueError(f"unknown SAM 2 version {version!r}; choose '2.0' or '2.1'")
    if image_size <= 0 or image_size % 32:
        raise ValueError(f"image_size must be a positive multiple of 32, got {image_size}")
    if num_maskmem < 1:
        raise ValueError(f"num_maskmem must be at least 1, got {num_maskmem}")
    hiera = SIZES[size]
    widths = [hiera.embed_dim * 2**stage for stage in range(4)]
    grid = image_size // 16
    return Sam2VideoConfig(
        image_size=image_size,
        num_maskmem=num_maskmem,
        enable_occlusion_spatial_embedding=version == "2.1",
        enable_temporal_pos_encoding_for_object_pointers=version == "2.1",
        memory_attention_rope_feat_sizes=[grid, grid],
        memory_attention_dropout=dropout,
        memory_attention_rope_dropout=dropout,
        prompt_encoder_config={"image_size": image_size},
        mask_decoder_config={},
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "image_size": [image_size, image_size],
                "hidden_size": hiera.embed_dim,
                "num_attention_heads": hiera.heads,
                "blocks_per_stage": list(hiera.blocks),
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [hiera.heads * 2**stage for stage in range(4)],
                "window_size_per_stage": list(hiera.windows),
                "global_attention_blocks": list(hiera.global_blocks),
                "window_positional_embedding_background_size": [hiera.background] * 2,
            },
        },
    )


def toy_config(*, image_size: int = 96, num_maskmem: int = 7) -> Sam2VideoConfig:
    """A SAM 2 of 0.7 million parameters that learns from scratch on a CPU.

    Three Hiera stages with a patch stride of 2, so that the top level has stride 8 and the mask
    logits stride 2. Decoder attention is not narrowed and has two heads, and RoPE turns slowly: the
    usual values do not learn to place a click at this width.

    Args:
        image_size: side of the square input in pixels, a multiple of 16 that gives whole windows.
        num_maskmem: frames of mask memory.

    Raises:
        ValueError: an image size that does not divide.
    """
    if image_size <= 0 or image_size % 16:
        raise ValueError(
            f"the toy's image_size must be a positive multiple of 16, got {image_size}"
        )
    grid = image_size // 8
    width = 64
    return Sam2VideoConfig(
        image_size=image_size,
        num_maskmem=num_maskmem,
        max_object_pointers_in_encoder=8,
        multimask_output_in_sam=False,
        memory_attention_hidden_size=width,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=256,
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_attention_rope_feat_sizes=[grid, grid],
        rope_parameters={"rope_type": "axial", "rope_theta": 100.0},
        memory_encoder_hidden_size=width,
        # transformers fixes the key width of the memory attention at 64
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=width,
        mask_downsampler_total_stride=8,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=128,
        prompt_encoder_config={"image_size": image_size, "patch_size": 8, "hidden_size": width},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 256,
            "num_attention_heads": 2,
            "attention_downsample_rate": 1,
            "iou_head_hidden_dim": width,
            "dynamic_multimask_via_stability": False,
        },
        vision_config={
            "model_type": "sam2_vision_model",
            "fpn_hidden_size": width,
            "backbone_channel_list": [64, 32, 16],
            "fpn_top_down_levels": [1, 2],
            "num_feature_levels": 3,
            "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "image_size": [image_size, image_size],
                "hidden_size": 16,
                "num_attention_heads": 1,
                "patch_kernel_size": [5, 5],
                "patch_stride": [2, 2],
                "patch_padding": [2, 2],
                "blocks_per_stage": [1, 1, 2],
                "embed_dim_per_stage": [16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4],
                "window_size_per_stage": [8, 4, 6],
                "global_attention_blocks": [3],
                "num_query_pool_stages": 2,
                "window_positional_embedding_background_size": [4, 4],
            },
        },
    )
