"""Hiera's blocks (arXiv 2306.00989), run on transformers' modules.

Blocks attend within windows; where windows do not divide the map it is padded with zeros, and as
they are written elsewhere the padding goes through the projections too: at 256 pixels two thirds of
a window of 14, at 1024 a sixth. A zero projects to the bias, so here queries, keys and values are
padded with that, and only what is real is projected, before and after the attention.

    every window is whole             one attention for all windows
    some are cut, gradient, float32   one for each kind of window, at the size of what is real in it
    some are cut                      one for all windows, padded: fewer operations to start
"""

from __future__ import annotations

import math
from collections.abc import Iterable

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
    if not window:
        return attention.proj(_attend_windows(block, attention.qkv(normed)))
    if all(side % window == 0 for side in normed.shape[1:3]):
        normed, grid = _to_windows(normed, (window, window))  # narrower than what it projects to
        answer = _attend_windows(block, attention.qkv(normed))
        return attention.proj(_from_windows(answer, images, grid))
    qkv = attention.qkv(normed)
    fill = attention.qkv(normed.new_zeros(1, 1, 1, normed.shape[-1]))
    # rounded to bfloat16, the logarithm of a count would be wrong by a hundredth
    if torch.is_grad_enabled() and qkv.dtype == torch.float32:
        return attention.proj(_attend_cut(block, qkv, fill))
    windows, grid = _to_windows(_pad(qkv, window, fill), (window, window))
    answer = _from_windows(_attend_windows(block, windows), images, grid)
    return attention.proj(answer[:, : size[0], : size[1]])


def _attend_cut(block: nn.Module, qkv: Tensor, fill: Tensor) -> Tensor:
    """As of a padded map, without the padding: [N, h, w, 3C'] to [N, h', w', C'].

    Whole windows, those cut at the right, at the bottom and in the corner are four kinds, each of
    one size.
    """
    window, bands = block.window_size, []
    for band in _whole_and_rest(qkv, window, dim=1):
        parts = []
        for part in _whole_and_rest(band, window, dim=2):
            windows, grid = _to_windows(part, (min(window, s) for s in part.shape[1:3]))
            lacking = window**2 - windows.shape[1] * windows.shape[2]
            answer = _attend_windows(block, windows, fill if lacking else None, lacking)
            parts.append(_from_windows(answer, len(qkv), grid))
        bands.append(torch.cat(parts, dim=2))
    return torch.cat(bands, dim=1)


def _whole_and_rest(maps: Tensor, window: int, *, dim: int) -> list[Tensor]:
    rest = maps.shape[dim] % window
    sizes = [size for size in (maps.shape[dim] - rest, rest) if size]
    return list(maps.split(sizes, dim))


def _attend_windows(
    block: nn.Module, qkv: Tensor, fill: Tensor | None = None, lacking: int = 0
) -> Tensor:
    """Attention within each of [windows, h, w, 3C'], giving [windows, h', w', C'].

    Args:
        fill: [1, 1, 1, 3C'], query, key and value of a place of padding.
        lacking: places of padding in each window; as keys they are alike, and count as one whose
            weight in the softmax is their number.
    """
    attention, bias = block.attn, None
    query, key, value = qkv.chunk(3, dim=-1)
    query = _pool(query, block.query_stride)
    query_heads, key, value = (
        _heads(part, attention.num_attention_heads) for part in (query, key, value)
    )
    if fill is not None:
        _, *pads = (_heads(part, attention.num_attention_heads) for part in fill.chunk(3, dim=-1))
        key, value = (
            torch.cat((part, pad.expand(len(part), -1, -1, -1)), dim=2)
            for part, pad in zip((key, value), pads, strict=True)
        )
        bias = query.new_zeros(1, 1, 1, key.shape[2])
        bias[..., -1] = math.log(lacking)
    answer = F.scaled_dot_product_attention(
        query_heads, key, value, attn_mask=bias, scale=attention.scale
    )
    return answer.transpose(1, 2).reshape(query.shape)


def _pad(maps: Tensor, window: int, fill: Tensor) -> Tensor:
    """Maps [N, h, w, C], filled up to whole windows at the bottom and at the right."""
    images, height, width, channels = maps.shape
    down, right = -height % window, -width % window
    if right:
        maps = torch.cat((maps, fill.expand(images, height, right, channels)), dim=2)
    if down:
        maps = torch.cat((maps, fill.expand(images, down, width + right, channels)), dim=1)
    return maps


def _to_windows(maps: Tensor, window: Iterable[int]) -> tuple[Tensor, tuple[int, int]]:
    """[N, h, w, C] to [N * windows, *window, C], and the numbers of windows."""
    height, width = window
    grid = maps.shape[1] // height, maps.shape[2] // width
    parts = maps.unflatten(2, (grid[1], width)).unflatten(1, (grid[0], height))
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
