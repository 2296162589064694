"""Augmentations of clips: frames and masks in one pass, every number drawn from the clip's rng.

The set follows the published SAM 2.1 fine-tuning recipe. A transform is ``(Clip, rng) -> Clip``;
unless it says otherwise one draw holds for all frames of the clip.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torchvision.transforms import InterpolationMode

from projects.sam2_video.data.clip import Clip

FILL = [124.0, 116.0, 104.0]  # the mean colour: what lies outside says nothing
AFFINE_ATTEMPTS = 5


class HorizontalFlip:
    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = _probability("HorizontalFlip", probability)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        if rng.random() >= self.probability:
            return clip
        return replace(clip, frames=clip.frames.flip(-1), masks=clip.masks.flip(-1))


class RandomAffine:
    """Rotation by up to ``degrees``, shear along x by up to ``shear`` degrees, shift and scale.

    An affine that moves every object out of the first frame is drawn again, a few times; in the
    end the clip stays as it is.
    """

    def __init__(
        self,
        *,
        degrees: float = 25.0,
        shear: float = 20.0,
        translate: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        if degrees < 0 or shear < 0 or not 0 <= translate < 1 or not 0 < scale[0] <= scale[1]:
            raise ValueError(
                "RandomAffine wants degrees and shear >= 0, translate in 0..1 (share of the side) "
                f"and a growing positive scale, got {degrees}, {shear}, {translate}, {scale}"
            )
        self.degrees = degrees
        self.shear = shear
        self.translate = translate
        self.scale = scale

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        height, width = clip.frames.shape[-2:]
        for _ in range(AFFINE_ATTEMPTS):
            shift = rng.uniform(-self.translate, self.translate, 2)
            params = dict(
                angle=float(rng.uniform(-self.degrees, self.degrees)),
                translate=[float(shift[0] * width), float(shift[1] * height)],
                scale=float(rng.uniform(*self.scale)),
                shear=[float(rng.uniform(-self.shear, self.shear)), 0.0],
            )
            masks = F.affine(clip.masks.to(torch.uint8), **params, fill=[0.0]).bool()
            if masks[0].any():
                frames = F.affine(
                    clip.frames, **params, interpolation=InterpolationMode.BILINEAR, fill=FILL
                )
                return replace(clip, frames=frames, masks=masks)
        return clip


class ResizeSquare:
    """To ``size x size``, the aspect not kept: frames bilinear with antialias, masks nearest."""

    def __init__(self, *, size: int) -> None:
        self.size = size

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        size = [self.size, self.size]
        if list(clip.frames.shape[-2:]) == size:
            return clip
        masks = F.resize(
            clip.masks.to(torch.uint8), size, interpolation=InterpolationMode.NEAREST_EXACT
        )
        return replace(clip, frames=F.resize(clip.frames, size, antialias=True), masks=masks.bool())


class ColorJitter:
    """Brightness, contrast and saturation by factors in ``1 -+ strength``; hue by ``-+ hue``.

    ``per_frame`` draws anew for every frame, otherwise the clip is changed as a whole.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        per_frame: bool = False,
    ) -> None:
        if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
            raise ValueError("ColorJitter wants strengths >= 0 and hue <= 0.5")
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.per_frame = per_frame

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        parts = clip.frames.split(1) if self.per_frame else [clip.frames]
        return replace(clip, frames=torch.cat([self._jitter(part, rng) for part in parts]))

    def _jitter(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        steps = [
            (F.adjust_brightness, self.brightness),
            (F.adjust_contrast, self.contrast),
            (F.adjust_saturation, self.saturation),
        ]
        for step in rng.permutation(len(steps)):
            adjust, strength = steps[step]
            if strength:
                frames = adjust(frames, float(rng.uniform(max(0, 1 - strength), 1 + strength)))
        if self.hue:
            frames = F.adjust_hue(frames, float(rng.uniform(-self.hue, self.hue)))
        return frames


class RandomGrayscale:
    def __init__(self, *, probability: float = 0.05) -> None:
        self.probability = _probability("RandomGrayscale", probability)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        if rng.random() >= self.probability:
            return clip
        return replace(clip, frames=F.rgb_to_grayscale(clip.frames, num_output_channels=3))


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: probability must be in 0..1, got {value}")
    return value
