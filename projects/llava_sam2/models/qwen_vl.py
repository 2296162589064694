"""What Qwen2.5-VL and Qwen3-VL share: patches in their order, positions in three dimensions.

    tiles [N, 3, H, H] ──► patches, 2 x 2 that merge side by side ──► visual ──► [N, V, D]

Both take pictures of any size; here each tile is a square picture of its own, so that datasets need
not know which language model they feed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from projects.common.freezing import grad_if_trainable
from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.visual_tokens import VisualTokens, grid_positions


class QwenVL(LanguageAdapter):
    """Base of both; further arguments as of :class:`LanguageAdapter`.

    Args:
        tile_size: side of a tile in pixels, a multiple of the pixels that a visual token covers.

    Raises:
        ValueError: another tile size.
    """

    def __init__(self, *, tile_size: int = 448, **adapter: Any) -> None:
        super().__init__(**adapter)
        vision = self.model.config.vision_config
        self.patch, self.merge = vision.patch_size, vision.spatial_merge_size
        self.frames_per_patch = vision.temporal_patch_size
        covered = self.patch * self.merge
        if tile_size < covered or tile_size % covered:
            raise ValueError(
                f"tile_size {tile_size} is no multiple of {covered}, the side that a visual token "
                f"covers ({self.merge} patches of {self.patch} pixels)"
            )
        self._tile_size = tile_size

    @property
    def tile_size(self) -> int:
        return self._tile_size

    @property
    def image_tokens_per_tile(self) -> int:
        return (self._tile_size // self.patch // self.merge) ** 2

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        visual = self.model.model.visual
        side = self._tile_size // self.patch
        grid = torch.tensor([[1, side, side]] * len(pixels), device=pixels.device)
        with grad_if_trainable(visual):
            outputs = visual(self._patches(pixels), grid_thw=grid)
        return self.join(outputs).unflatten(0, (len(pixels), -1))

    def join(self, outputs: Any) -> Tensor:
        """What the vision tower gives as ``[N * V, W]``."""
        return outputs.pooler_output

    def arrange(
        self, input_ids: Tensor, attention_mask: Tensor, visual: VisualTokens | None
    ) -> dict[str, Any]:
        if visual is None:
            pictures, per_tile = torch.zeros_like(attention_mask, dtype=torch.bool), 1
        else:
            pictures, per_tile = visual.pictures, visual.per_tile
        return {"position_ids": grid_positions(attention_mask.bool(), pictures, per_tile)}

    def _patches(self, pixels: Tensor) -> Tensor:
        """Tiles ``[N, 3, H, H]`` to patches ``[N * patches, 3 * frames * patch * patch]``.

        A picture is repeated where the patches of a video reach over several frames.
        """
        size = (-1, self.merge, self.patch)
        grid = pixels.unflatten(3, size).unflatten(2, size)  # [N, 3, a, m, p, b, m, p]
        grid = grid.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [N, a, b, m, m, 3, p, p]
        grid = grid.unsqueeze(6).expand(*[-1] * 6, self.frames_per_patch, -1, -1)
        return grid.flatten(5).flatten(0, 4)
