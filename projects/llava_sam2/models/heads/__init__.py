"""Heads: what a task's batch trains. Each has ``loss(batch, *, mllm, grounding) -> dict``."""

from .box import BoxHead
from .category import CategoryHead
from .chat import ChatHead
from .concept import ConceptHead, attend_concept
from .segment import SegmentHead, decode_language, seg_projector
from .temporal import FeatureProjector, TemporalHead
from .track import TrackHead

__all__ = [
    "BoxHead",
    "CategoryHead",
    "ChatHead",
    "ConceptHead",
    "FeatureProjector",
    "SegmentHead",
    "TemporalHead",
    "TrackHead",
    "attend_concept",
    "decode_language",
    "seg_projector",
]
