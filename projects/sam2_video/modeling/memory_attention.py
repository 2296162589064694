"""Memory attention, run on transformers' modules (SAM 2, arXiv 2408.00714, section 4).

A layer: self-attention of the frame, cross-attention to the memory, a feed-forward net. Keys with
their position code are the same in all layers and made once; the rotation of RoPE (arXiv
2104.09864, axial) is a table, applied as a product of complex numbers and shared by all memories.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rope_table(module: nn.Module) -> Tensor:
    """Cosine and sine per place and pair of channels, float32 [h * w, d / 2, 2]."""
    cos, sin = module.rotary_emb(torch.zeros(1), module.position_ids)  # [1, h * w, d], in pairs
    return torch.stack((cos[0, :, ::2], sin[0, :, ::2]), dim=-1).float().contiguous()


def attend(
    module: nn.Module, frame: Tensor, memory: Tensor, codes: Tensor, table: Tensor, pointers: int
) -> Tensor:
    """Condition a frame on the memory.

    Args:
        module: transformers' memory attention.
        frame: [B, h * w, C], its position code added; [1, h * w, C] where all rows see one frame,
            whose first self-attention is made once then.
        memory: [B, L, 64], the last ``pointers`` tokens are not places and stay unrotated.
        codes: [L, 1 or B, 64] position codes of the memory.
        table: of :func:`rope_table`.

    Returns:
        [B, h * w, C].
    """
    rotation = torch.view_as_complex(table)
    keys = memory + codes.transpose(0, 1)
    for layer in module.layers:
        query = layer.layer_norm1(frame)
        answer = _attention(layer.self_attn, query, query, query, rotation, 0)
        frame = frame + _drop(layer.dropout1, answer)
        query = layer.layer_norm2(frame)
        answer = _attention(layer.cross_attn_image, query, keys, memory, rotation, pointers)
        frame = frame + _drop(layer.dropout2, answer)
        hidden = layer.activation(layer.linear1(layer.layer_norm3(frame)))
        frame = frame + _drop(layer.dropout3, layer.linear2(_drop(layer.dropout, hidden)))
    return module.layer_norm(frame)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rotation: Tensor, plain: int
) -> Tensor:
    heads = module.num_attention_heads
    query = _rotate(_split(module.q_proj(query), heads), rotation, 0)
    key = _rotate(_split(module.k_proj(key), heads), rotation, plain)
    query = query.expand(len(key), -1, -1, -1)
    answer = F.scaled_dot_product_attention(
        query,
        key,
        _split(module.v_proj(value), heads),
        dropout_p=module.dropout_p if module.training else 0.0,
        scale=module.scaling,
    )
    return module.o_proj(answer.transpose(1, 2).flatten(2))


def _drop(dropout: nn.Dropout, values: Tensor) -> Tensor:
    """Dropout that keeps a mask of bytes for backward; on a CPU torch's own keeps floats."""
    if not (dropout.training and dropout.p):
        return values
    return torch.native_dropout(values, dropout.p, True)[0]


def _split(tokens: Tensor, heads: int) -> Tensor:
    """[B, L, C] to [B, heads, L, d]."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def _rotate(tokens: Tensor, rotation: Tensor, plain: int) -> Tensor:
    """Turn tokens [B, heads, n * h * w + plain, d], all but the last ``plain``, by their place."""
    rows, heads, total, width = tokens.shape
    length = total - plain
    if not length:
        return tokens
    placed = tokens[:, :, :length] if plain else tokens
    if placed.dtype != torch.float32:
        placed = placed.float()
    pairs = placed.reshape(rows, heads, -1, len(rotation), width // 2, 2)
    turned = torch.view_as_real(torch.view_as_complex(pairs) * rotation)
    turned = turned.reshape(rows, heads, length, width)
    if turned.dtype != tokens.dtype:
        turned = turned.to(tokens.dtype)
    return torch.cat((turned, tokens[:, :, length:]), dim=2) if plain else turned
