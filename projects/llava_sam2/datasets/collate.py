"""One collate for a run that mixes conversations and clips; a batch holds one task, so one kind."""

from __future__ import annotations

from collections.abc import Sequence

from projects.llava_sam2.structures import GroundingBatch, GroundingSample, collate_grounding
from projects.sam2_video.data.clip import Clip, ClipBatch, collate_clips


def collate(samples: Sequence[GroundingSample] | Sequence[Clip]) -> GroundingBatch | ClipBatch:
    """Batch samples of one task, whichever kind they are."""
    if isinstance(samples[0], Clip):
        return collate_clips(samples)
    return collate_grounding(samples)
