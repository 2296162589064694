"""The embedded default: a small SAM 2 that learns from scratch on a CPU."""

from __future__ import annotations

from projects.sam2_video.modeling.blocks import Sam2, build_sam2
from projects.sam2_video.modeling.config import toy_config
from projects.sam2_video.modeling.init import apply_scratch_init


def toy_sam2(*, image_size: int = 96, num_maskmem: int = 7, seed: int = 0) -> Sam2:
    """0.7 million parameters, initialised for training from scratch."""
    model = build_sam2(toy_config(image_size=image_size, num_maskmem=num_maskmem))
    apply_scratch_init(model, seed=seed)
    return model
