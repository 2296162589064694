"""Augmentations of clips: frames and masks in one pass, every number drawn from the clip's rng.

The set follows the published SAM 2.1 fine-tuning recipe. A transform is ``(Clip, rng) -> Clip``;
one draw holds for all frames of the clip, or each frame draws for itself with ``per_frame``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode

from projects.common.reading import SampleEvent
from projects.common.warp import affine_matrix, warp_frames, warp_masks
from projects.sam2_video.data.clip import Clip, visible

FILL = [124.0, 116.0, 104.0]  # the mean colour: what lies outside says nothing
_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision


class HorizontalFlip:
    def __init__(self, *, probability: float = 0.5, per_frame: bool = False) -> None:
        self.probability = _probability("HorizontalFlip", probability)
        self.per_frame = per_frame

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        chosen = _choose(clip, self.probability, self.per_frame, rng)
        return replace(
            clip,
            frames=_change(clip.frames, chosen, lambda part: part.flip(-1)),
            masks=_change(clip.masks, chosen, lambda part: part.flip(-1)),
        )


class RandomAffine:
    """Rotation by up to ``degrees``, shear along x by up to ``shear`` degrees, shift and scale.

    An affine that loses an object is drawn again: one that the first frame shows must stay there,
    another must stay in the clip. After ``attempts`` draws the clip stays as it is, and its events
    say ``affine_skipped``.

    Args:
        translate: shift by up to this share of the sides.
        scale: smallest and largest factor.
    """

    def __init__(
        self,
        *,
        degrees: float = 25.0,
        shear: float = 20.0,
        translate: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        per_frame: bool = False,
        attempts: int = 5,
    ) -> None:
        if degrees < 0 or shear < 0 or not 0 <= translate < 1 or not 0 < scale[0] <= scale[1]:
            raise ValueError(
                "RandomAffine wants degrees and shear >= 0, translate in 0..1 (share of the side) "
                f"and a growing positive scale, got {degrees}, {shear}, {translate}, {scale}"
            )
        if attempts < 1:
            raise ValueError(f"RandomAffine wants attempts >= 1, got {attempts}")
        self.degrees = degrees
        self.shear = shear
        self.translate = translate
        self.scale = scale
        self.per_frame = per_frame
        self.attempts = attempts

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        steps = len(clip.frames)
        pieces = [slice(t, t + 1) for t in range(steps)] if self.per_frame else [slice(steps)]
        for _ in range(self.attempts):
            matrices = [self._draw(clip, rng) for _ in pieces]
            parts = list(zip(pieces, matrices, strict=True))
            masks = _join([warp_masks(clip.masks[p].numpy(), m) for p, m in parts])
            if _none_lost(clip.masks, masks):
                frames = [warp_frames(clip.frames[p].numpy(), m, FILL) for p, m in parts]
                return replace(clip, frames=_join(frames), masks=masks)
        reason = f"{clip.name}: {self.attempts} affines in a row lose an object"
        return replace(clip, events=[*clip.events, SampleEvent("affine_skipped", reason)])

    def _draw(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        height, width = clip.frames.shape[-2:]
        shift = rng.uniform(-self.translate, self.translate, 2)
        return affine_matrix(
            height=height,
            width=width,
            angle=float(rng.uniform(-self.degrees, self.degrees)),
            translate=[float(shift[0] * width), float(shift[1] * height)],
            scale=float(rng.uniform(*self.scale)),
            shear=float(rng.uniform(-self.shear, self.shear)),
        )


class ResizeSquare:
    """To ``size x size``, the aspect not kept: frames bilinear with antialias, masks nearest."""

    def __init__(self, *, size: int) -> None:
        self.size = size

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        size = [self.size, self.size]
        if list(clip.frames.shape[-2:]) == size:
            return clip
        masks = F.resize(
            clip.masks.view(torch.uint8), size, interpolation=InterpolationMode.NEAREST_EXACT
        )
        frames = F.resize(clip.frames, size, antialias=True)
        return replace(clip, frames=frames, masks=masks.view(torch.bool))


class ColorJitter:
    """Brightness, contrast and saturation by factors in ``1 -+ strength``; hue by ``-+ hue``.

    The steps come in a drawn order. They are torchvision's, computed in one go: rounded once, at
    the end, and a frame at a time, which stays in the processor's cache.
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
        self.strengths = [
            (adjust_brightness, 1.0, brightness),
            (adjust_contrast, 1.0, contrast),
            (adjust_saturation, 1.0, saturation),
            (adjust_hue, 0.0, hue),
        ]
        self.per_frame = per_frame

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        steps = self._draw(rng)
        frames = torch.empty_like(clip.frames)
        for number, frame in enumerate(clip.frames):
            if number and self.per_frame:
                steps = self._draw(rng)
            frames[number] = _jittered(frame, steps)
        return replace(clip, frames=frames)

    def _draw(self, rng: np.random.Generator) -> list[tuple[Callable, float]]:
        steps = []
        for number in rng.permutation(len(self.strengths)):
            adjust, middle, strength = self.strengths[number]
            if strength:
                low = middle - strength if adjust is adjust_hue else max(0.0, middle - strength)
                steps.append((adjust, float(rng.uniform(low, middle + strength))))
        return steps


class RandomGrayscale:
    def __init__(self, *, probability: float = 0.05, per_frame: bool = False) -> None:
        self.probability = _probability("RandomGrayscale", probability)
        self.per_frame = per_frame

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        chosen = _choose(clip, self.probability, self.per_frame, rng)
        return replace(clip, frames=_change(clip.frames, chosen, _grey_frames))


def adjust_brightness(frame: Tensor, factor: float) -> Tensor:
    """float [3, H, W] in 0..255, changed in place; so are the next ones."""
    return frame.mul_(factor).clamp_(0, 255)


def adjust_contrast(frame: Tensor, factor: float) -> Tensor:
    """Away from the frame's mean grey."""
    mean = _grey(frame).mean()
    return frame.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 255)


def adjust_saturation(frame: Tensor, factor: float) -> Tensor:
    """Away from each pixel's grey."""
    grey = _grey(frame).mul_(1 - factor)
    return frame.mul_(factor).add_(grey).clamp_(0, 255)


def adjust_hue(frame: Tensor, shift: float) -> Tensor:
    """``shift`` in turns of the colour circle, -0.5..0.5."""
    return F.adjust_hue(frame.div_(255), shift).mul_(255)


def _jittered(frame: Tensor, steps: list[tuple[Callable, float]]) -> Tensor:
    values = frame.float()
    for adjust, amount in steps:
        values = adjust(values, amount)
    return values.round_().to(torch.uint8)


def _grey(frame: Tensor) -> Tensor:
    red, green, blue = _GREY
    return (frame[0] * red).add_(frame[1], alpha=green).add_(frame[2], alpha=blue)


def _grey_frames(frames: Tensor) -> Tensor:
    return torch.cat(
        [F.rgb_to_grayscale(frame, num_output_channels=3) for frame in frames.split(1)]
    )


def _choose(clip: Clip, probability: float, per_frame: bool, rng: np.random.Generator) -> Tensor:
    """bool [T]: the frames that are changed, all or none where they do not draw for themselves."""
    count = len(clip.frames)
    drawn = rng.random(count if per_frame else 1) < probability
    return torch.from_numpy(np.broadcast_to(drawn, count).copy())


def _change(values: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``values`` [T, ...] with the chosen frames changed."""
    if chosen.all():
        return change(values)
    if chosen.any():
        values = values.clone()
        values[chosen] = change(values[chosen])
    return values


def _join(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _none_lost(before: Tensor, after: Tensor) -> bool:
    """Whether masks ``[T, O, H, W]`` keep the objects of the first frame there, others anywhere."""
    had, has = visible(before), visible(after)  # [T, O]
    kept = torch.where(had[0], has[0], has.any(0) | ~had.any(0))
    return bool(kept.all())


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: probability must be in 0..1, got {value}")
    return value
