"""Regions that a question points at: their words, and the visual tokens that stand for them.

    "There are 2 part regions in the picture: region1<region>, region2<region>.  What is region1?"
                                                  │
    mask ──► which of the g x g visual tokens of the whole image it covers ──► <vp>, these tokens
                                                                             once more, </vp>

Sa2VA's visual prompt (Yuan et al., 2025): a region is shown by repeating its own visual tokens.
Training and inference both come here through ``GroundingInputs``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from projects.common.conversation import IMAGE_PLACEHOLDER, REGION_PLACEHOLDER
from projects.llava_sam2.datasets.pixels import DynamicTiles, Tiles


def introduce(count: int) -> str:
    """What points at ``count`` regions and names them region1, region2, ..., as released models
    were trained to read it."""
    named = ", ".join(f"region{k}{REGION_PLACEHOLDER}" for k in range(1, count + 1))
    return f"There are {count} part regions in the picture: {named}."


def with_regions(questions: Sequence[str], count: int) -> list[str]:
    """Questions that hold a place for each region: their own, or else an introduction behind the
    pictures of the first one."""
    if not count or any(REGION_PLACEHOLDER in question for question in questions):
        return list(questions)
    before, picture, asked = questions[0].rpartition(IMAGE_PLACEHOLDER)
    shown = f"{before}{picture}\n{introduce(count)}\n{asked.lstrip()}"
    return [shown, *questions[1:]]


def check_overview(tiles: Tiles) -> None:
    """Raise ValueError where the last tile does not show the whole image."""
    if isinstance(tiles, DynamicTiles) and not tiles.thumbnail:
        raise ValueError("regions lie on the thumbnail: dynamic tiles need thumbnail=True")


def check_masks(masks: np.ndarray, size: tuple[int, int], name: str) -> None:
    """Raise ValueError where masks [R, H, W] are not of an image of this size, or one is empty."""
    if masks.ndim != 3 or masks.shape[1:] != tuple(size):
        raise ValueError(
            f"{name}: region masks of shape {masks.shape} on an image of {size[0]} x {size[1]} "
            "(height x width); they are [regions, height, width] of the image's own size"
        )
    empty = [f"region{k + 1}" for k, mask in enumerate(masks) if not mask.any()]
    if empty:
        raise ValueError(f"{name}: {', '.join(empty)}: an empty mask; there is nothing to point at")


def cover_grid(masks: np.ndarray, grid: int | tuple[int, int]) -> Tensor:
    """Which cells of a grid over the whole image masks cover, bool [R, H, W] to bool [R, g, g].

    The grid is a square's side, or rows and columns. No mask is empty. A cell is what the mask is
    at its upper left pixel, as in the released models; a region that lies between these pixels
    keeps the cells that it covers most, so that every region is seen.
    """
    regions = torch.from_numpy(masks).float()
    size = (grid, grid) if isinstance(grid, int) else tuple(grid)
    cells = F.interpolate(regions[None], size, mode="nearest")[0].bool()
    between = ~cells.flatten(1).any(1)
    share = F.adaptive_avg_pool2d(regions[between], size)
    cells[between] = share == share.amax((1, 2), keepdim=True)
    return cells
