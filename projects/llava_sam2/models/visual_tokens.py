"""Visual tokens and the places in the text where they stand.

    ... <img> tile 1 | tile 2 | ... </img> ... <vp> some tokens of the last tile again </vp> ...

Shapes: B samples, L tokens, N tiles of all samples, V visual tokens a tile, W their width, R
regions of one sample, g x g = V the grid of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class VisualTokens:
    """What stands where."""

    tokens: Tensor  # [n, W] in reading order
    places: Tensor  # [B, L] bool, n of them
    pictures: Tensor  # [B, L] bool: the places of whole tiles; the others repeat a region
    per_tile: int  # V


def check_visual(pictures: Tensor, visual: Tensor | None, token: str) -> None:
    """There are as many visual tokens as places for tiles.

    Raises:
        ValueError: with both counts.
    """
    expected = int(pictures.sum())
    given = 0 if visual is None else visual.shape[0] * visual.shape[1]
    if expected != given:
        each = "" if visual is None else f" ({visual.shape[1]} each of {visual.shape[0]})"
        raise ValueError(
            f"{expected} {token} tokens but {given} visual features{each}; they must "
            "be equal in number"
        )


def region_tokens(
    visual: Tensor, tiles: Sequence[int], regions: Sequence[Tensor | None]
) -> list[Tensor]:
    """The tokens of each sample's regions, ``[n_b, W]``: region by region, row by row.

    Args:
        visual: ``[N, V, W]``.
        tiles: how many of the N belong to each sample; regions lie on the last.
        regions: per sample ``[R, g, g]`` bool, or None.
    """
    copied, last = [], -1
    for count, masks in zip(tiles, regions, strict=True):
        last += count
        if masks is None:
            copied.append(visual[:0, 0])
            continue
        side = grid_side(visual.shape[1])
        if not count or masks.shape[1:] != (side, side):
            raise ValueError(
                f"regions of shape {tuple(masks.shape)} on {count} tiles; they lie on the last "
                f"tile's grid, [regions, {side}, {side}]"
            )
        chosen = masks.flatten(1).nonzero()[:, 1]
        copied.append(visual[last][chosen.to(visual.device)])
    return copied


def check_regions(places: Tensor, tokens: Sequence[Tensor]) -> None:
    """Each sample has as many places in its regions as tokens for them.

    Raises:
        ValueError: with both counts.
    """
    for row, (expected, given) in enumerate(zip(places.sum(1).tolist(), tokens, strict=True)):
        if expected != len(given):
            raise ValueError(
                f"sample {row} of the batch: {expected} tokens within <vp> </vp>, but its regions "
                f"cover {len(given)} visual tokens; they must be equal in number"
            )


def grid_side(tokens: int) -> int:
    """Side of the square of so many tokens.

    Raises:
        ValueError: they make no square.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} visual tokens a tile do not make a square")
    return side


def grid_positions(attention_mask: Tensor, pictures: Tensor, per_tile: int) -> Tensor:
    """Time, row and column of every token, ``[3, B, L]``, as Qwen-VL's multimodal rope counts.

    Text counts on in all three. The tokens of a tile share their time and lie on its grid; what
    follows starts behind the larger of its sides (Qwen2-VL, Wang et al., 2024).

    Args:
        attention_mask: ``[B, L]``, False on padding.
        pictures: ``[B, L]`` bool, whole tiles.
        per_tile: V.
    """
    side = grid_side(per_tile)
    within = (pictures.long().cumsum(1) - 1) % per_tile
    ends_tile = pictures & (within == per_tile - 1)
    advance = torch.where(pictures, ends_tile * side, 1) * attention_mask
    base = advance.cumsum(1) - advance
    zero = torch.zeros_like(base)
    offsets = [zero, within // side, within % side]
    return torch.stack([base + torch.where(pictures, offset, zero) for offset in offsets])
