"""What things are, told to SAM 2's image encoder: it helps one that learns from scratch.

    images ─ encode ─► features ─ averaged over each object's cells ─► Linear ─► its category

Published encoders come with pretraining; the toy's has seen masks alone, which tell it where things
end and not what they are. Words can only find what the features hold.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.normalise import mean_count
from projects.sam2_video.data.clip import ClipBatch
from projects.sam2_video.modeling import Sam2


class CategoryHead(nn.Module):
    """Cross entropy of the objects' categories; the language model takes no part. It only trains.

    Args:
        features: channels of SAM 2's image features.
        categories: how many there are.
        weight: of the loss.
    """

    def __init__(self, *, features: int, categories: int, weight: float = 1.0) -> None:
        super().__init__()
        self.classify = nn.Linear(features, categories)
        self.weight = weight

    def loss(
        self, batch: ClipBatch, *, mllm: LanguageAdapter, grounding: Sam2
    ) -> dict[str, Tensor]:
        """``loss_category``, the mean over the objects of the global batch.

        Raises:
            ValueError: clips of several frames, objects without a category, or a category that
                the head does not have.
        """
        self._check(batch)
        embed = grounding.encode_frames(batch.frames[:, 0]).embed  # [V, C, h, w]
        pooled = pool_objects(embed[batch.object_to_video], batch.masks[0])
        logits = self.classify(pooled.to(self.classify.weight.dtype)).float()
        total = F.cross_entropy(logits, batch.categories, reduction="sum")
        return {"loss_category": self.weight * total / mean_count(len(logits), logits.device)}

    def _check(self, batch: ClipBatch) -> None:
        if batch.num_frames != 1:
            raise ValueError(
                f"the category head wants images, got clips of {batch.num_frames} frames: "
                "UniformSampler(num_frames=1)"
            )
        if batch.categories is None:
            raise ValueError(
                f"objects of {batch.names[0]} have no category; the category head wants a source "
                "that knows them, such as CocoImageSource"
            )
        known, largest = self.classify.out_features, int(batch.categories.max())
        if largest >= known:
            raise ValueError(
                f"{', '.join(batch.names)}: an object is of category {largest} (from 0), but "
                f"CategoryHead(categories={known})"
            )


def pool_objects(embed: Tensor, masks: Tensor) -> Tensor:
    """Image features averaged over the cells that an object fills by half, or most, ``[O, C]``.

    Args:
        embed: ``[O, C, h, w]``.
        masks: bool ``[O, H, W]``.
    """
    share = F.adaptive_avg_pool2d(masks[:, None].float(), embed.shape[-2:])
    cells = (share > 0.5) | (share == share.amax((2, 3), keepdim=True))
    cells = cells.to(embed.dtype)
    return (embed * cells).sum((2, 3)) / cells.sum((2, 3))
