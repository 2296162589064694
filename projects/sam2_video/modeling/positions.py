"""Position codes that depend on sizes only, computed once.

The sine code over a grid is DETR's (arXiv 2005.12872), as SAM 2 uses it; transformers builds it
anew for every level of every image, also where nobody reads it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TEMPERATURE = 10000.0


def sine_grid(channels: int, height: int, width: int) -> Tensor:
    """Sine code of a grid [height * width, 1, channels]; rows come in the first half."""
    features = channels // 2
    wave = torch.arange(features, dtype=torch.float32)
    wave = TEMPERATURE ** (2 * torch.div(wave, 2, rounding_mode="floor") / features)

    def along(length: int) -> Tensor:
        place = torch.arange(1, length + 1, dtype=torch.float32)
        place = place / (length + 1e-6) * (2 * math.pi)
        angle = place[:, None] / wave
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    rows = along(height)[:, None].expand(height, width, features)
    columns = along(width)[None].expand(height, width, features)
    return torch.cat((rows, columns), dim=2).reshape(height * width, 1, channels)


def sine_offsets(offsets: Tensor, channels: int) -> Tensor:
    """Sine code of offsets in time [P], sines before cosines: [P, channels]."""
    features = channels // 2
    wave = torch.arange(features, dtype=torch.float32, device=offsets.device)
    wave = TEMPERATURE ** (2 * torch.div(wave, 2, rounding_mode="floor") / features)
    angle = offsets[:, None] / wave
    return torch.cat((angle.sin(), angle.cos()), dim=1)


class NoPosition(nn.Module):
    """Stands where transformers would build a position code that nobody reads."""

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.empty(0, device=device, dtype=dtype)
