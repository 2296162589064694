"""Where something is, in words: boxes are text, so the language loss is the whole of it."""

from __future__ import annotations

from torch import Tensor

from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.heads.chat import ChatHead
from projects.llava_sam2.structures import GroundingBatch
from projects.sam2_video.modeling import Sam2


class BoxHead(ChatHead):
    """The language loss of answers in coordinates, about pictures that must be there."""

    def loss(
        self, batch: GroundingBatch, *, mllm: LanguageAdapter, grounding: Sam2
    ) -> dict[str, Tensor]:
        """``{"loss_language"}``, averaged over the supervised tokens of the batch.

        Raises:
            ValueError: naming the samples that bring no pictures.
        """
        blind = [n for n, c in zip(batch.names, batch.tiles_per_sample, strict=True) if not c]
        if blind:
            raise ValueError(f"no pictures in {', '.join(blind)}; boxes are of something")
        return super().loss(batch, mllm=mllm, grounding=grounding)
