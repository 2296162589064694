"""Heads: what a task's batch trains. Each has ``loss(batch, *, mllm, grounding) -> dict``."""

from .chat import ChatHead
from .segment import SegmentHead, decode_language, seg_projector
from .temporal import FeatureProjector, TemporalHead
from .track import TrackHead

__all__ = [
    "ChatHead",
    "FeatureProjector",
    "SegmentHead",
    "TemporalHead",
    "TrackHead",
    "decode_language",
    "seg_projector",
]
