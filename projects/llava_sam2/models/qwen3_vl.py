"""Qwen3-VL (Bai et al., 2025) behind the adapter, on transformers' own classes.

Its first decoder layers each see features of another layer of the vision tower on top of their
hidden states (DeepStack, Meng et al., 2024). They travel as further channels of the visual tokens,
so that whoever repeats or stores visual tokens need not know of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from projects.llava_sam2.models.qwen_vl import QwenVL
from projects.llava_sam2.models.visual_tokens import VisualTokens


class Qwen3VL(QwenVL):
    """A built ``Qwen3VLForConditionalGeneration``; arguments as of :class:`QwenVL`.

    A visual token is ``W = (1 + layers) * D`` wide; one of a head is D wide and touches no further
    layer.
    """

    image_mean = image_std = (0.5, 0.5, 0.5)

    def join(self, outputs: Any) -> Tensor:
        return torch.cat([outputs.pooler_output, *outputs.deepstack_features], dim=-1)

    def arrange(
        self, input_ids: Tensor, attention_mask: Tensor, visual: VisualTokens | None
    ) -> dict[str, Any]:
        arranged = super().arrange(input_ids, attention_mask, visual)
        if visual is None or visual.tokens.shape[1] == self.hidden_size:
            return arranged
        _, *deeper = visual.tokens.split(self.hidden_size, dim=1)
        return arranged | {"visual_pos_masks": visual.places, "deepstack_visual_embeds": deeper}
