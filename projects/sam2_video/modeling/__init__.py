"""SAM 2: verbs on transformers' blocks, memory, tracker, weights."""

from .blocks import Sam2, build_sam2
from .config import sam2_config, toy_config
from .init import apply_scratch_init
from .memory import MemoryBank
from .meta_weights import load_meta_checkpoint, to_meta_state
from .tracker import Tracker, TrackingPolicy
from .typed import (
    BOX_END,
    BOX_START,
    NEGATIVE,
    PADDING,
    POSITIVE,
    FrameFeatures,
    FrameOutput,
    MaskCandidates,
    MixedPrompt,
    Prompt,
)

__all__ = [
    "BOX_END",
    "BOX_START",
    "NEGATIVE",
    "PADDING",
    "POSITIVE",
    "FrameFeatures",
    "FrameOutput",
    "MaskCandidates",
    "MemoryBank",
    "MixedPrompt",
    "Prompt",
    "Sam2",
    "Tracker",
    "TrackingPolicy",
    "apply_scratch_init",
    "build_sam2",
    "load_meta_checkpoint",
    "sam2_config",
    "to_meta_state",
    "toy_config",
]
