"""Clips with clicks, boxes and masks: SAM 2's own training inside the grounded language model.

A mask decoder that is tuned on language alone forgets clicks and no longer fits the memory; clip
batches beside the language batches keep both alive.
"""

from __future__ import annotations

from torch import Tensor, nn

from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.sam2_video.data.clip import ClipBatch
from projects.sam2_video.modeling import Sam2
from projects.sam2_video.train_model import TrainingUnroll


class TrackHead(nn.Module):
    """SAM 2's losses on a batch of clips; the language model takes no part.

    Args:
        unroll: prompts, tracks and judges a batch.
        weight: of all its losses.
    """

    def __init__(self, *, unroll: TrainingUnroll, weight: float = 1.0) -> None:
        super().__init__()
        self.unroll = unroll
        self.weight = weight

    def loss(
        self, batch: ClipBatch, *, mllm: LanguageAdapter, grounding: Sam2
    ) -> dict[str, Tensor]:
        """``loss_track_mask``, ``loss_track_dice``, ``loss_track_iou``, ``loss_track_class``."""
        losses = self.unroll(grounding, batch)
        return {f"loss_track_{k.removeprefix('loss_')}": self.weight * v for k, v in losses.items()}
