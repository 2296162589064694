"""Hiera's blocks (arXiv 2306.00989), run on transformers' modules.

Blocks attend within windows; where windows do not divide the map it is padded with zeros, and as
they are written elsewhere the padding goes through the projections too: at 256 pixels two thirds of
a window of 14, at 1024 a sixth. A zero projects to the bias, so here queries, keys and values are
padded with that, and only what is real is projected, before and after the attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_hiera(backbone: nn.Module, pixels: Tensor, *, recompute: bool) -> list[Tensor]:
    """The last map [N, h, w, channels] of each stage, from the highest resolution down.

    Args:
        backbone: transformers' Hiera.
        pixels: [N, 3, S, S] normalised.
        recompute: keep a block's input only and make the rest anew in backward.
    """
    hidden = backbone.patch_embed(pixels)
    hidden = hidden + backbone._get_pos_embed(hidden.shape[1:3])
    stages = []
    for number, block in enumerate(backbone.blocks):
        if recompute and block.training and torch.is_grad_enabled():
            hidden = checkpoint(run_block, block, hidden, use_reentrant=False)
        else:
            hidden = run_block(block, hidden)
        if number in backbone.stage_ends:
            stages.append(hidden)
    return stages


def run_block(block: nn.Module, hidden: Tensor) -> Tensor:
    """One block: [N, h, w, C] to [N, h', w', C'], halved where the block pools its queries."""
    normed = block.layer_norm1(hidden)
    residual = hidden
    if block.dim != block.dim_out:
        residual = _pool(block.proj(normed), block.query_stride)
    drop = getattr(block, "drop_path", nn.Identity())
    hidden = residual + drop(_attend(block, normed, residual.shape[1:3]))
    return hidden + drop(block.mlp(block.layer_norm2(hidden)))


def _attend(block: nn.Module, normed: Tensor, size: tuple[int, int]) -> Tensor:
    """Attention within windows, [N, h, w, C] to [N, *size, C']."""
    attention, window, images = block.attn, block.window_size, len(normed)
    if window and all(side % window == 0 for side in normed.shape[1:3]):
        normed, grid = _to_windows(normed, window)  # narrower than what it projects to
        qkv = attention.qkv(normed)
    elif window:
        fill = attention.qkv(normed.new_zeros(1, 1, 1, normed.shape[-1]))
        qkv, grid = _to_windows(_pad(attention.qkv(normed), window, fill), window)
    else:
        qkv = attention.qkv(normed)
    query, key, value = qkv.chunk(3, dim=-1)  # [windows, h, w, C'] each
    query = _pool(query, block.query_stride)
    answer = F.scaled_dot_product_attention(
        *(_heads(part, attention.num_attention_heads) for part in (query, key, value)),
        scale=attention.scale,
    )
    answer = answer.transpose(1, 2).reshape(query.shape)
    if window:
        answer = _from_windows(answer, images, grid)[:, : size[0], : size[1]]
    return attention.proj(answer)


def _pad(maps: Tensor, window: int, fill: Tensor) -> Tensor:
    """Maps [N, h, w, C], filled up to whole windows at the bottom and at the right."""
    images, height, width, channels = maps.shape
    down, right = -height % window, -width % window
    if right:
        maps = torch.cat((maps, fill.expand(images, height, right, channels)), dim=2)
    if down:
        maps = torch.cat((maps, fill.expand(images, down, width + right, channels)), dim=1)
    return maps


def _to_windows(maps: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """[N, h, w, C] to [N * windows, window, window, C], and the numbers of windows."""
    grid = maps.shape[1] // window, maps.shape[2] // window
    parts = maps.unflatten(2, (grid[1], window)).unflatten(1, (grid[0], window))
    return parts.transpose(2, 3).flatten(0, 2), grid


def _from_windows(windows: Tensor, images: int, grid: tuple[int, int]) -> Tensor:
    """The way back; windows may have shrunk since."""
    parts = windows.unflatten(0, (images, *grid)).transpose(2, 3)
    return parts.flatten(3, 4).flatten(1, 2)


def _heads(maps: Tensor, heads: int) -> Tensor:
    """[N, h, w, C] to [N, heads, h * w, C / heads]."""
    return maps.flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)


def _pool(maps: Tensor, stride: tuple[int, int] | None) -> Tensor:
    """Max pooling of [N, h, w, C]; no stride: unchanged."""
    if not stride:
        return maps
    return F.max_pool2d(maps.permute(0, 3, 1, 2), stride, stride).permute(0, 2, 3, 1)
