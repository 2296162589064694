"""Stochastic depth (arXiv 1603.09382) on Hiera's residuals, which transformers' Hiera lacks."""

from __future__ import annotations

from timm.layers import DropPath
from torch import nn


def add_drop_path(blocks: nn.ModuleList, rate: float) -> None:
    """Give Hiera's blocks drop rates that rise linearly from 0 to ``rate``.

    A block's two branches drop an image at a time (``hiera.run_block``); the module holds no
    parameters, so that names in checkpoints stay what they are.

    Raises:
        ValueError: a rate outside 0..1.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"drop_path must be at least 0 and below 1, got {rate}")
    if rate == 0.0:
        return
    for number, block in enumerate(blocks):
        block.drop_path = DropPath(rate * number / max(len(blocks) - 1, 1))
