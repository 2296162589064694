"""What Qwen2.5-VL and Qwen3-VL share: patches in their order, positions in three dimensions.

    pictures [N, 3, h, w] ──► patches, 2 x 2 that merge side by side ──► visual ──► [N, V, D]

Both take pictures of any size: an image at about its own (datasets/native.py), or square tiles, of
which each is then a picture of its own, so that datasets need not know which model they feed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from projects.common.freezing import grad_if_trainable
from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.visual_tokens import Grid, VisualTokens, grid_positions


class QwenVL(LanguageAdapter):
    """Base of both; further arguments as of :class:`LanguageAdapter`.

    Args:
        tile_size: side of a square tile in pixels, a multiple of the side that a token covers.

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
        return self._encode([pixels]).unflatten(0, (len(pixels), -1))

    def visual_features(self, pixel_values: Tensor | Sequence[Tensor]) -> Tensor:
        """Pictures ``[N, 3, h, w]`` of any size to ``[N, V, W]``, or several such, of different
        sizes, to ``[n, 1, W]``: all tokens, in one pass of the vision tower."""
        groups = [pixel_values] if isinstance(pixel_values, Tensor) else list(pixel_values)
        tokens = self._encode([self.normalise(group) for group in groups])
        number = len(pixel_values) if isinstance(pixel_values, Tensor) else len(tokens)
        return tokens.unflatten(0, (number, -1))

    def grids(self, pixel_values: Tensor | Sequence[Tensor]) -> list[Grid]:
        """Rows and columns of the visual tokens of each picture.

        Raises:
            ValueError: sides that visual tokens do not cover.
        """
        groups = [pixel_values] if isinstance(pixel_values, Tensor) else pixel_values
        covered, found = self.patch * self.merge, list[Grid]()
        for group in groups:
            *_, height, width = group.shape
            if group.shape[1] != 3 or not height * width or height % covered or width % covered:
                raise ValueError(
                    f"pictures of shape {tuple(group.shape)}; wanted is [N, 3, h, w] with sides "
                    f"that are multiples of {covered}, the side of a visual token"
                )
            found += [(height // covered, width // covered)] * len(group)
        return found

    def _encode(self, groups: Sequence[Tensor]) -> Tensor:
        """Normalised pictures, group by group of one size, to visual tokens ``[n, W]``."""
        visual = self.model.model.visual
        grids = [(1, r * self.merge, c * self.merge) for r, c in self.grids(groups)]
        patches = torch.cat([self._patches(pixels) for pixels in groups])
        with grad_if_trainable(visual):
            outputs = visual(patches, grid_thw=torch.tensor(grids, device=patches.device))
        return self.join(outputs)

    def join(self, outputs: Any) -> Tensor:
        """What the vision tower gives as ``[N * V, W]``."""
        return outputs.pooler_output

    def arrange(
        self, input_ids: Tensor, attention_mask: Tensor, visual: VisualTokens | None
    ) -> dict[str, Any]:
        if visual is None:
            pictures, grids = torch.zeros_like(attention_mask, dtype=torch.bool), []
        else:
            pictures, grids = visual.pictures, visual.grids
        return {"position_ids": grid_positions(attention_mask.bool(), pictures, grids)}

    def _patches(self, pixels: Tensor) -> Tensor:
        """Pictures ``[N, 3, h, w]`` to patches ``[N * patches, 3 * frames * patch * patch]``.

        A picture is repeated where the patches of a video reach over several frames.
        """
        size = (-1, self.merge, self.patch)
        grid = pixels.unflatten(3, size).unflatten(2, size)  # [N, 3, a, m, p, b, m, p]
        grid = grid.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [N, a, b, m, m, 3, p, p]
        grid = grid.unsqueeze(6).expand(*[-1] * 6, self.frames_per_patch, -1, -1)
        return grid.flatten(5).flatten(0, 4)
