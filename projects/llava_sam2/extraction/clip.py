"""CLIP image encoders: frames to unit vectors, by transformers or by open_clip.

frame uint8 [H, W, 3] ─ prepare (in loader workers) ─► [3, S, S] ─ encode ─► [N, width], length 1
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PretrainedConfig,
)

VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # the recipe's encoder, as transformers has it
OPEN_CLIP_VIT_H, OPEN_CLIP_TAG = "ViT-H-14", "laion2b_s32b_b79k"  # the same, as open_clip has it


class ClipEncoder:
    """An image tower with its preprocessing.

    Args:
        tower: pixels ``[N, 3, S, S]`` to embeddings ``[N, width]``, in the space shared with text.
        prepare: a frame, uint8 RGB ``[H, W, 3]``, to pixels ``[3, S, S]``; can be pickled.
        name: where it comes from.
        dtype: of the tower while it runs, e.g. bfloat16 on a GPU.
        device: that it runs on.
    """

    def __init__(
        self,
        *,
        tower: nn.Module,
        prepare: Callable[[np.ndarray], Tensor],
        name: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        # told apart by its weights too: two folders may share a name
        self.name = f"{name} {_fingerprint(tower)}"
        self.tower = tower.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self.prepare = prepare
        self.dtype, self.device = dtype, torch.device(device)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels ``[N, 3, S, S]`` to unit vectors, float32 ``[N, width]`` on the CPU."""
        moved = pixels.to(self.device, self.dtype, non_blocking=True)
        return F.normalize(self.tower(moved).float(), dim=-1).cpu()


def transformers_clip(path: str, **options: Any) -> ClipEncoder:
    """A CLIP folder (or hub id) of transformers; a vision tower with its projection is enough.

    Args:
        path: holds config, weights and ``preprocessor_config.json``.
        options: ``dtype`` and ``device`` of :class:`ClipEncoder`.

    Raises:
        ValueError: another kind of model, or weights that do not cover the image tower.
        OSError: nothing there.
    """
    kind = PretrainedConfig.get_config_dict(path)[0].get("model_type")
    known = {CLIPConfig.model_type: CLIPModel}
    known[CLIPVisionConfig.model_type] = CLIPVisionModelWithProjection
    if kind not in known:
        raise ValueError(f"{path}: a model of type {kind!r}; expected {' or '.join(known)}")
    model, report = known[kind].from_pretrained(
        path, trust_remote_code=False, output_loading_info=True
    )
    missing = sorted(key for key in report["missing_keys"] if "text" not in key)
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} weights of the image tower are missing, e.g. {missing[0]}"
        )
    tower = _Projected(model.vision_model, model.visual_projection)
    prepare = _Processed(CLIPImageProcessorPil.from_pretrained(path))
    name = Path(path).name if Path(path).is_dir() else path
    return ClipEncoder(tower=tower, prepare=prepare, name=f"transformers {name}", **options)


def open_clip_model(name: str, pretrained: str, **options: Any) -> ClipEncoder:
    """A model of open_clip, where that package is installed.

    Args:
        name: e.g. ``ViT-H-14``.
        pretrained: a tag of open_clip, or a file of weights.
        options: ``dtype`` and ``device`` of :class:`ClipEncoder`.

    Raises:
        ModuleNotFoundError: without the package.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "open_clip is not installed: pip install open_clip_torch, or take --library "
            "transformers, which has the same model"
        ) from error
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained)
    tag = Path(pretrained).name
    return ClipEncoder(
        tower=_ImageSide(model),
        prepare=_Pictured(preprocess),
        name=f"open_clip {name} {tag}",
        **options,
    )


class _Projected(nn.Module):
    """transformers' image tower, whose pooled output is projected."""

    def __init__(self, vision: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision, self.projection = vision, projection

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projection(self.vision(pixel_values=pixels).pooler_output)


class _ImageSide(nn.Module):
    """open_clip's image tower."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.visual

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)


class _Processed:
    """transformers' preprocessing of one frame."""

    def __init__(self, processor: CLIPImageProcessorPil) -> None:
        self.processor = processor

    def __call__(self, frame: np.ndarray) -> Tensor:
        return self.processor(images=Image.fromarray(frame), return_tensors="pt").pixel_values[0]


class _Pictured:
    """open_clip's preprocessing of one frame, which takes pictures of PIL."""

    def __init__(self, preprocess: Callable[[Image.Image], Tensor]) -> None:
        self.preprocess = preprocess

    def __call__(self, frame: np.ndarray) -> Tensor:
        return self.preprocess(Image.fromarray(frame))


def _fingerprint(tower: nn.Module) -> str:
    """Eight characters that change with the weights, of which the head of each is read."""
    digest = hashlib.sha256()
    for parameter in tower.parameters():
        digest.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]
