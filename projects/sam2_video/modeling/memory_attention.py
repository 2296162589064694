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
    keys = memory + codes.transpose(0, 1)
    for layer in module.layers:
        query = layer.layer_norm1(frame)
        answer = _attention(layer.self_attn, query, query, query, table, 0)
        frame = frame + _drop(layer.dropout1, answer)
        query = layer.layer_norm2(frame)
        answer = _attention(layer.cross_attn_image, query, keys, memory, table, pointers)
        frame = frame + _drop(layer.dropout2, answer)
        hidden = layer.activation(layer.linear1(layer.layer_norm3(frame)))
        frame = frame + _drop(layer.dropout3, layer.linear2(_drop(layer.dropout, hidden)))
    return module.layer_norm(frame)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, table: Tensor, plain: int
) -> Tensor:
    heads = module.num_attention_heads
    query = _rotate(_split(module.q_proj(query), heads), table, 0)
    key = _rotate(_split(module.k_proj(key), heads), table, plain)
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


def _rotate(tokens: Tensor, table: Tensor, plain: int) -> Tensor:
    """Turn tokens [B, heads, n * h * w + plain, d], all but the last ``plain``, by their place."""
    rows, heads, total, width = tokens.shape
    length = total - plain
    placed = tokens[:, :, :length] if plain else tokens
    if placed.dtype != torch.float32:
        placed = placed.float()
    pairs = placed.reshape(rows, heads, -1, len(table), width // 2, 2)
    turned = _turn(pairs, table).reshape(rows, heads, length, width)
    if turned.dtype != tokens.dtype:
        turned = turned.to(tokens.dtype)
    return torch.cat((turned, tokens[:, :, length:]), dim=2) if plain else turned


def _turn(pairs: Tensor, table: Tensor) -> Tensor:
    """Pairs [..., places, d / 2, 2] times the table's cosines and sines, as complex numbers."""
    if not torch.compiler.is_compiling():
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
    # the compiler has no complex numbers; elsewhere this takes four times as long
    (real, imaginary), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
    return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
