"""SAM 2's feature pyramid, run on transformers' modules (FPN, arXiv 1612.03144).

The decoder narrows the two high-resolution levels to C/8 and C/4 channels, by a 1 x 1 convolution
of what the pyramid has just widened to C by another. Where nothing lies between the two they are
one: the product of their weights. The wide maps, the largest of the whole encoder, are never made.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def feature_pyramid(neck: nn.Module, stages: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Levels 2, 1 and 0 of the pyramid; level 0 has the highest resolution.

    Args:
        neck: transformers' FPN; its first convolution serves the last stage.
        stages: of Hiera, [N, h, w, channels], from the highest resolution down.

    Returns:
        Level 2 [N, C, h, w]; then levels 0 and 1 for :func:`project_level`: ``[N, C, h, w]`` where
        the level gets something from above, else the stage itself.
    """
    top = len(stages) - 1
    levels: dict[int, Tensor] = {}
    for place in range(top, -1, -1):
        if place < 2 and place not in neck.fpn_top_down_levels:
            levels[place] = stages[place]
            continue
        level = neck.convs[top - place](stages[place].permute(0, 3, 1, 2))
        if place < top and place in neck.fpn_top_down_levels:
            above = F.interpolate(levels[place + 1].float(), scale_factor=2.0, mode="nearest")
            level = level + above.to(level.dtype)
        levels[place] = level
    return levels[2], levels[0], levels[1]


def project_level(neck: nn.Module, place: int, level: Tensor, conv: nn.Conv2d) -> Tensor:
    """The decoder's projection of level 0 or 1, from what :func:`feature_pyramid` gave."""
    if place in neck.fpn_top_down_levels:
        return conv(level)
    lateral = neck.convs[len(neck.convs) - 1 - place]
    with torch.autocast(level.device.type, enabled=False):  # weights, not activations
        narrow, wide = conv.weight.flatten(1), lateral.weight.flatten(1)
        weight, bias = narrow @ wide, narrow @ lateral.bias + conv.bias
    return F.linear(level, weight, bias).permute(0, 3, 1, 2).contiguous()
