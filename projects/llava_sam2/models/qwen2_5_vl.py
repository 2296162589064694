"""Qwen2.5-VL (Bai et al., 2025) behind the adapter, on transformers' own classes."""

from __future__ import annotations

from projects.llava_sam2.models.qwen_vl import QwenVL


class Qwen2_5VL(QwenVL):
    """A built ``Qwen2_5_VLForConditionalGeneration``; arguments as of :class:`QwenVL`."""

    image_mean = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
    image_std = (0.26862954, 0.26130258, 0.27577711)
