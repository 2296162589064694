"""Starting values for a SAM 2 that learns from scratch.

transformers' own start (everything at 0.02, memory fuser and temporal table at zero) serves
models that get pretrained weights. From random weights, how attention starts decides whether the
decoder learns to answer a click and the memory to point at the place it came from.
"""

from __future__ import annotations

import torch
from torch import nn

from .blocks import Sam2

RESETTABLE = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding, nn.LayerNorm)
POINT_CODE_SCALE = 0.5  # slower waves: neighbouring places look alike
POINT_LABEL_SCALE = 0.3  # a click's label must not drown its place
MATCH_GAIN = 1.5
MEMORY_WEIGHT_SCALE, MEMORY_BIAS = 0.3, 2.0
FUSER_SCALE = 0.1
TABLE_STD = 0.02  # Meta's, for learned tables and absent-object codes


@torch.no_grad()
def apply_scratch_init(model: Sam2, *, seed: int) -> None:
    """Set every weight of ``model`` to a start from which it learns; the same seed, the same start.

    Args:
        model: on any device but "meta".
        seed: of the draws; the CPU's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.blocks.modules():
            if isinstance(module, RESETTABLE):
                module.reset_parameters()
        _init_tables(model)
        _scale_prompt_codes(model)
        _match_decoder_attention(model)
        _point_memory_at_its_place(model)


def _init_tables(model: Sam2) -> None:
    blocks = model.blocks
    for table in (
        blocks.memory_temporal_positional_encoding,
        blocks.no_memory_embedding,
        blocks.no_memory_positional_encoding,
        blocks.no_object_pointer,
        blocks.occlusion_spatial_embedding_parameter,
    ):
        if table is not None:
            nn.init.trunc_normal_(table, std=TABLE_STD)
    nn.init.zeros_(blocks.vision_encoder.backbone.pos_embed)
    nn.init.zeros_(blocks.vision_encoder.backbone.pos_embed_window)


def _scale_prompt_codes(model: Sam2) -> None:
    blocks = model.blocks
    code = blocks.prompt_encoder.shared_embedding.positional_embedding
    code.normal_(std=POINT_CODE_SCALE)
    blocks.shared_image_embedding.positional_embedding.copy_(code)
    blocks.prompt_encoder.point_embed.weight.mul_(POINT_LABEL_SCALE)


def _match_decoder_attention(model: Sam2) -> None:
    """Queries and keys start alike, so that a click attends to the place with its own code."""
    transformer = model.blocks.mask_decoder.transformer
    crossings = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        crossings += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in crossings:
        nn.init.orthogonal_(attention.q_proj.weight, gain=MATCH_GAIN)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        nn.init.zeros_(attention.q_proj.bias)
        nn.init.zeros_(attention.k_proj.bias)


def _point_memory_at_its_place(model: Sam2) -> None:
    """Equal biases that RoPE turns by place: attention to the memory starts local."""
    blocks = model.blocks
    for layer in blocks.memory_attention.layers:
        attention = layer.cross_attn_image
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(MEMORY_WEIGHT_SCALE)
            nn.init.constant_(projection.bias, MEMORY_BIAS)
        nn.init.orthogonal_(attention.v_proj.weight)
        nn.init.orthogonal_(attention.o_proj.weight)
    nn.init.orthogonal_(blocks.memory_encoder.projection.weight)
    nn.init.orthogonal_(blocks.memory_encoder.mask_downsampler.final_conv.weight)
    for layer in blocks.memory_encoder.memory_fuser.layers:
        nn.init.constant_(layer.scale, FUSER_SCALE)
