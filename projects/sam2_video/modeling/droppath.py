"""Stochastic depth (arXiv 1603.09382) on Hiera's residuals, which transformers' Hiera lacks."""

from __future__ import annotations

from timm.layers import DropPath
from torch import Tensor, nn


class ResidualDropPath:
    """Drops both residual branches of one Hiera block, an image at a time.

    The block attends within windows, so that its attention sees ``images * windows`` items; the
    drop has to be the same for all windows of an image. It hooks into the block, so that names of
    parameters stay what they are.
    """

    def __init__(self, block: nn.Module, *, rate: float) -> None:
        self.rate = rate
        self.images = 0
        self.attention_path = DropPath(rate)
        self.mlp_path = DropPath(rate)
        # not the block's own hook: recomputing activations runs its forward without it
        block.layer_norm1.register_forward_pre_hook(self._note_images)
        block.attn.register_forward_hook(self._drop_attention)
        block.mlp.register_forward_hook(self._drop_mlp)

    def _note_images(self, norm: nn.Module, args: tuple) -> None:
        self.images = args[0].shape[0]

    def _drop_attention(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return self._drop(self.attention_path, module, output)

    def _drop_mlp(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return self._drop(self.mlp_path, module, output)

    def _drop(self, path: DropPath, module: nn.Module, output: Tensor) -> Tensor:
        path.train(module.training)
        return path(output.reshape(self.images, -1)).view_as(output)


def add_drop_path(blocks: nn.ModuleList, rate: float) -> None:
    """Give Hiera's blocks drop rates that rise linearly from 0 to ``rate``.

    Raises:
        ValueError: a rate outside 0..1.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"drop_path must be at least 0 and below 1, got {rate}")
    if rate == 0.0:
        return
    for number, block in enumerate(blocks):
        ResidualDropPath(block, rate=rate * number / max(len(blocks) - 1, 1))
