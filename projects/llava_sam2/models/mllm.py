"""InternVL (Chen et al., 2024) behind the adapter, on transformers' own classes.

tiles ──► InternViT ──► patches [N, 1 + P, C] ──► pixel shuffle: 4 patches a token ──► MLP
"""

from __future__ import annotations

from torch import Tensor

from projects.common.freezing import grad_if_trainable
from projects.llava_sam2.models.adapter import LanguageAdapter

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InternVL(LanguageAdapter):
    """A built ``InternVLForConditionalGeneration``; arguments as of :class:`LanguageAdapter`."""

    image_mean, image_std = IMAGE_MEAN, IMAGE_STD

    @property
    def tile_size(self) -> int:
        return self.model.config.vision_config.image_size[0]

    @property
    def image_tokens_per_tile(self) -> int:
        vision = self.model.config.vision_config
        side = vision.image_size[0] // vision.patch_size[0]
        return int(side * self.model.config.downsample_ratio) ** 2

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        inner = self.model.model
        with grad_if_trainable(inner.vision_tower):
            patches = inner.vision_tower(pixel_values=pixels).last_hidden_state  # [N, 1 + P, C]
        side = int((patches.shape[1] - 1) ** 0.5)
        grid = patches[:, 1:].unflatten(1, (side, side))  # the class token says nothing here
        tokens = inner.pixel_shuffle(grid, scale_factor=self.model.config.downsample_ratio)
        projector = inner.multi_modal_projector  # float32 where it trains, beside a frozen tower
        return projector(tokens.flatten(1, 2).to(projector.linear_1.weight.dtype))
