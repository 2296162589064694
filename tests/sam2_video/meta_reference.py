"""Drives the modules of PyPI's ``sam2`` as the reference of our tests.

Models are built without hydra, with weights that make a comparison mean something: no zero
embeddings, layer scale 0.3, objects present unless asked otherwise.
"""

from __future__ import annotations

import zlib

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

HIERA = {
    "tiny": dict(embed_dim=96, num_heads=1, stages=(1, 2, 7, 2), global_att_blocks=(5, 7, 9)),
    "small": dict(embed_dim=96, num_heads=1, stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13)),
    "base_plus": dict(
        embed_dim=112,
        num_heads=2,
        stages=(2, 3, 16, 3),
        global_att_blocks=(12, 16, 20),
        window_pos_embed_bkg_spatial_size=(14, 14),
    ),
    "large": dict(
        embed_dim=144,
        num_heads=2,
        stages=(2, 6, 36, 4),
        global_att_blocks=(23, 33, 43),
        window_spec=(8, 4, 16, 8),
    ),
}


def build_meta(
    size: str = "tiny",
    *,
    image_size: int = 128,
    num_maskmem: int = 7,
    version: str = "2.1",
    dropout: float = 0.1,
    drop_path: float = 0.0,
    model_class: type = SAM2Base,
    **switches,
) -> SAM2Base:
    """Meta's model as its 2.1 (or 2.0) configuration files describe it."""
    spec = {"window_pos_embed_bkg_spatial_size": (7, 7)} | HIERA[size]
    width = spec["embed_dim"]
    rope = dict(
        rope_theta=10000.0,
        feat_sizes=(image_size // 16, image_size // 16),
        embedding_dim=256,
        num_heads=1,
        downsample_rate=1,
        dropout=dropout,
    )
    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=2048,
        dropout=dropout,
        pos_enc_at_attn=False,
        self_attention=RoPEAttention(**rope),
        d_model=256,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=RoPEAttention(**rope, rope_k_repeat=True, kv_in_dim=64),
    )
    newer = version == "2.1"
    arguments = dict(
        image_encoder=ImageEncoder(
            scalp=1,
            trunk=Hiera(drop_path_rate=drop_path, **spec),
            neck=FpnNeck(
                position_encoding=PositionEmbeddingSine(num_pos_feats=256, normalize=True),
                d_model=256,
                backbone_channel_list=[width * 8, width * 4, width * 2, width],
                fpn_top_down_levels=[2, 3],
                fpn_interp_model="nearest",
            ),
        ),
        memory_attention=MemoryAttention(
            d_model=256, pos_enc_at_input=True, layer=layer, num_layers=4
        ),
        memory_encoder=MemoryEncoder(
            out_dim=64,
            position_encoding=PositionEmbeddingSine(num_pos_feats=64, normalize=True),
            mask_downsampler=MaskDownSampler(kernel_size=3, stride=2, padding=1),
            fuser=Fuser(CXBlock(dim=256, layer_scale_init_value=1e-6, use_dwconv=True), 2),
        ),
        num_maskmem=num_maskmem,
        image_size=image_size,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        no_obj_embed_spatial=newer,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        add_tpos_enc_to_obj_ptrs=newer,
        proj_tpos_enc_in_obj_ptrs=newer,
        use_signed_tpos_enc_to_obj_ptrs=newer,
        only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        multimask_output_for_tracking=True,
        use_multimask_token_for_obj_ptr=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        use_mlp_for_obj_ptr_proj=True,
    )
    return model_class(**(arguments | switches))


@torch.no_grad()
def randomise(model: SAM2Base, seed: int = 0, *, object_bias: float = 3.0) -> SAM2Base:
    """Weights under which every parameter shows in the output.

    A parameter's values depend on its name and shape only, so that variants of a model share what
    they have in common. Without a positive ``object_bias`` every mask would be blanked, and any two
    models agree.
    """
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        if parameter.ndim == 1 and ("norm" in name or ".weight" in name and "encoder" in name):
            parameter.copy_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
        elif name.endswith("gamma"):
            parameter.fill_(0.3)
        elif parameter.ndim >= 2 and parameter[0].numel() > 1 and "embed" not in name:
            scale = parameter[0].numel() ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        else:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    generator = torch.Generator().manual_seed(seed)
    code = model.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    code.copy_(torch.randn(code.shape, generator=generator))
    head = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    head.weight.mul_(0.3)
    head.bias.fill_(object_bias)
    return model


def encode_meta(model: SAM2Base, frames: Tensor) -> list[dict]:
    """Image features of ``frames`` [T, videos, 3, S, S] in 0..255, one entry per frame."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return [model.forward_image(images) for images in (frames.float() / 255 - mean) / std]


class MetaTrack:
    """Runs ``SAM2Base.track_step`` over a clip with rows gathered from several videos."""

    def __init__(self, model: SAM2Base, encoded: list[dict]) -> None:
        """``encoded``: of ``encode_meta``, by this model or one with the same image encoder."""
        self.model = model
        self.num_frames = len(encoded)
        self.encoded = encoded
        self.outputs = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}

    def row_features(self, frame: int, rows: Tensor):
        """Meta's sequence-first features, positions and sizes of the rows' images."""
        _, features, positions, sizes = self.model._prepare_backbone_features(self.encoded[frame])
        return [f[:, rows] for f in features], [p[:, rows] for p in positions], sizes

    def step(
        self,
        frame: int,
        rows: Tensor,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        initial: bool = False,
        conditioning: bool = False,
        reverse: bool = False,
    ) -> dict:
        features, positions, sizes = self.row_features(frame, rows)
        inputs = None
        if points is not None:
            inputs = {"point_coords": points[0], "point_labels": points[1].to(torch.int32)}
        output = self.model.track_step(
            frame_idx=frame,
            is_init_cond_frame=initial,
            current_vision_feats=features,
            current_vision_pos_embeds=positions,
            feat_sizes=sizes,
            point_inputs=inputs,
            mask_inputs=mask,
            output_dict=self.outputs,
            num_frames=self.num_frames,
            track_in_reverse=reverse,
        )
        store = "cond_frame_outputs" if conditioning else "non_cond_frame_outputs"
        self.outputs[store][frame] = output
        return output
