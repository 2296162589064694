"""Conversations without masks: captions, questions, descriptions of regions."""

from __future__ import annotations

from torch import Tensor, nn

from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.structures import GroundingBatch
from projects.sam2_video.modeling import Sam2


class ChatHead(nn.Module):
    """The language loss alone.

    Args:
        language_weight: of the language loss.
    """

    def __init__(self, *, language_weight: float = 1.0) -> None:
        super().__init__()
        self.language_weight = language_weight

    def loss(
        self, batch: GroundingBatch, *, mllm: LanguageAdapter, grounding: Sam2
    ) -> dict[str, Tensor]:
        """``{"loss_language"}``, averaged over the supervised tokens of the batch."""
        hidden = mllm(
            batch.input_ids, batch.attention_mask, batch.pixel_values, regions=batch.regions
        )
        loss = mllm.language_loss(hidden, batch.labels, mean_count=batch.mean_counts.get("tokens"))
        return {"loss_language": self.language_weight * loss}
