"""The language side of SeC's inference: outlined pictures and a frame in, concepts out.

    references of B objects ─┐
    the frame at hand ───────┴─► visual tokens ─► question and answer ─► hidden at [SEG] ─► [B, C]

The answer is given, not generated: one pass, and the [SEG] is always there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from projects.common.evaluation import model_fingerprint
from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.llava_sam2.models.heads.concept import ConceptHead
from projects.llava_sam2.models.seg_tokens import gather_seg
from projects.llava_sam2.sec.gate import SceneGate
from projects.llava_sam2.sec.references import Reference, References
from projects.sam2_video.predictor import inference

PAD = -1  # no token's id


class Guidance:
    """What is asked, when, and of whom.

    Args:
        mllm: the language model.
        head: whose projector and ``token_attn`` the concepts go through.
        inputs: contours, pictures and words, as in training.
        gate: opens where the language model is to be asked.
        kept: references beside the first one.
        min_object_logit: a frame is kept as a reference if its mask is not empty and its object
            score is above this.
        batch_size: objects about which it is asked at once.
    """

    def __init__(
        self,
        *,
        mllm: LanguageAdapter,
        head: ConceptHead,
        inputs: ConceptInputs,
        gate: SceneGate | None = None,
        kept: int = 6,
        min_object_logit: float = 1.0,
        batch_size: int = 4,
    ) -> None:
        if kept < 0 or batch_size < 1:
            raise ValueError(f"kept is at least 0, batch_size at least 1; got {kept}, {batch_size}")
        self.mllm = mllm
        self.head = head
        self.inputs = inputs
        self.gate = gate or SceneGate()
        self.kept = kept
        self.min_object_logit = min_object_logit
        self.batch_size = batch_size

    def settings(self) -> dict[str, object]:
        """What changes the masks, for the file of the results."""
        return {
            "concept_weights": model_fingerprint(self.head),  # trained with the language model
            "asks": self.inputs.describe(),
            "scene_threshold": self.gate.threshold,
            "scene_colours": self.gate.colours,
            "kept": self.kept,
            "min_object_logit": self.min_object_logit,
        }

    def reference(
        self, frame: int, image: np.ndarray, mask: np.ndarray, *, prompted: bool
    ) -> Reference:
        """A frame uint8 [H, W, 3] with the object's contour."""
        (picture,) = self.inputs.pictures(self.inputs.outline(image, mask)[None])
        return Reference(frame, picture, prompted)

    def look(self, image: np.ndarray) -> Tensor:
        """Visual tokens ``[V, W]`` of a frame uint8 [H, W, 3], plain."""
        (seen,) = self._see(self.inputs.pictures(image[None]))
        return seen

    def concepts(self, objects: Sequence[References], now: Tensor) -> Tensor:
        """Concepts ``[B, C]`` of B objects in a frame, of which :meth:`look` made the tokens."""
        new = [one for references in objects for one in references if one.visual is None]
        if new:
            for one, seen in zip(
                new, self._see(torch.stack([n.picture for n in new])), strict=True
            ):
                one.visual = seen.clone()  # not a view of the whole batch
        with inference(self.mllm), inference(self.head):
            parts = [
                self._ask(objects[start : start + self.batch_size], now)
                for start in range(0, len(objects), self.batch_size)
            ]
            return self.head.project(torch.cat(parts))

    def _see(self, pictures: Tensor) -> Tensor:
        """uint8 [N, 3, h, w] to [N, V, W]."""
        with inference(self.mllm):
            return self.mllm.visual_features(pictures.to(self.mllm.device))

    def _ask(self, objects: Sequence[References], now: Tensor) -> Tensor:
        """Hidden states at [SEG], ``[B, D]``."""
        mllm, shown = self.mllm, [list(references) for references in objects]
        picture = shown[0][0].picture  # all are of one size
        ids = [
            self.inputs.conversation(
                self.inputs.first(),
                pictures=picture.expand(len(references) + 1, -1, -1, -1),
                name="guidance",
            ).input_ids
            for references in shown
        ]
        input_ids = pad_sequence(ids, batch_first=True, padding_value=PAD).to(mllm.device)
        known = input_ids != PAD
        visual = [seen for each in shown for seen in (*(one.visual for one in each), now)]
        grids = [self.inputs.inputs.grid(picture)] * len(visual)
        hidden = mllm(input_ids.where(known, 0), known, visual=torch.stack(visual), grids=grids)
        return gather_seg(hidden, input_ids, mllm.seg_id)[0]
