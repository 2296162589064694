"""Tracking that asks the language model where the scene changes.

    frame ─► features ─┬─► memory attention ─► seen ─┐
                       └─► token_attn ◄─ concepts ──►┴─ mean ─► mask decoder ─► mask ─► memory
                                            ▲                                     │ present?
              scene change ─► language model ◄─────────────── references ◄────────┘

SeC's inference (Zhang et al., 2025). On all other frames this is SAM 2's tracking, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.llava_sam2.sec.gate import SceneWatch
from projects.llava_sam2.sec.guidance import Guidance
from projects.llava_sam2.sec.references import References
from projects.sam2_video.frame_reader import FrameReader
from projects.sam2_video.modeling import FrameFeatures, FrameOutput, Tracker
from projects.sam2_video.object_groups import GroupTracker, ObjectGroup


class ConceptTracking(GroupTracker):
    """Groups of objects of one video; each object has references of its own.

    Args:
        guidance: the language side.

    Further arguments as of ``GroupTracker``.
    """

    def __init__(
        self,
        *,
        guidance: Guidance,
        tracker: Tracker,
        clean: Callable[[Tensor], Tensor],
        decoder: nn.Module | None,
        keep_corrections: bool,
        reader: FrameReader,
    ) -> None:
        super().__init__(
            tracker=tracker,
            clean=clean,
            decoder=decoder,
            keep_corrections=keep_corrections,
            reader=reader,
        )
        self.guidance = guidance
        self.watch = SceneWatch(guidance.gate, reader.video)
        self.references: dict[int, References] = {}  # by the object's place in the output
        self._reverse = False
        self._looked: tuple[int, Tensor] | None = None  # a frame and its visual tokens

    def answer(self, group: ObjectGroup, frame: int, features: FrameFeatures) -> None:
        """As for ``GroupTracker``; what is answered is the object's first reference."""
        super().answer(group, frame, features)
        masks = self._at_video_size(group.answers[frame])
        for place, row in enumerate(group.rows):
            given = group.prompts[frame][place].mask
            mask = masks[place] if given is None else np.asarray(given).astype(bool)
            self.references.setdefault(row, References(kept=self.guidance.kept))
            self._refer(row, frame, mask, prompted=True)

    def track(
        self,
        group: ObjectGroup,
        frame: int,
        features: FrameFeatures,
        *,
        reverse: bool,
        remember: bool,
    ) -> FrameOutput:
        """As for ``GroupTracker``; where a scene begins, concepts have half of the say."""
        asked = self._to_ask(group, frame, reverse)
        if not asked:
            return super().track(group, frame, features, reverse=reverse, remember=remember)
        seen = self.tracker.condition(features, frame, group.memory, reverse=reverse)
        embed = self._average(group, asked, frame, features, seen.embed)
        output = self.tracker.decode(features.with_embed(embed), None, decoder=self.decoder)
        if remember:
            self.tracker.remember(features, frame, output, group.memory)
            self._keep(group, asked, frame, output)
        return output

    def _to_ask(self, group: ObjectGroup, frame: int, reverse: bool) -> list[int]:
        """Places in the group of the objects that the language model is asked about."""
        if reverse != self._reverse:
            self._reverse = reverse
            for references in self.references.values():
                references.forget_tracked()
        if not self.watch.changes(frame + 1 if reverse else frame - 1, frame):
            return []
        return [place for place, row in enumerate(group.rows) if len(self.references[row])]

    def _average(
        self,
        group: ObjectGroup,
        asked: Sequence[int],
        frame: int,
        features: FrameFeatures,
        seen: Tensor,
    ) -> Tensor:
        """Embed ``[B, C, h, w]``: the mean of what memory and concepts say, where it was asked."""
        objects = [self.references[group.rows[place]] for place in asked]
        concepts = self.guidance.concepts(objects, self._look(frame))
        index = torch.tensor(asked, device=seen.device)
        said = self.guidance.head.condition(
            self.tracker.model, features.rows(index), concepts.to(seen.device)
        )
        return seen.index_copy(0, index, ((said + seen[index]) / 2).to(seen.dtype))

    def _look(self, frame: int) -> Tensor:
        """Visual tokens of a frame; groups of objects share them."""
        if self._looked is None or self._looked[0] != frame:
            self._looked = frame, self.guidance.look(self._image(frame))
        return self._looked[1]

    def _keep(
        self, group: ObjectGroup, asked: Sequence[int], frame: int, output: FrameOutput
    ) -> None:
        """What was found with certainty joins the references."""
        least = self.guidance.min_object_logit
        certain = [place for place in asked if float(output.object_logits[place]) > least]
        if certain:
            masks = self._at_video_size(self.clean(output.masks[certain]))
            for place, mask in zip(certain, masks, strict=True):
                self._refer(group.rows[place], frame, mask, prompted=False)

    def _refer(self, row: int, frame: int, mask: np.ndarray, *, prompted: bool) -> None:
        if mask.any():
            image = self._image(frame)
            self.references[row].add(self.guidance.reference(frame, image, mask, prompted=prompted))

    def _image(self, frame: int) -> np.ndarray:
        return np.asarray(self.reader.video[frame])

    def _at_video_size(self, logits: Tensor) -> np.ndarray:
        """Logits [B, 1, m, m] as masks bool [B, H, W]."""
        masks = F.interpolate(
            logits.float(), self.reader.size, mode="bilinear", align_corners=False
        )
        return (masks[:, 0] > 0).cpu().numpy()
