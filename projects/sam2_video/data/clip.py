"""The typed sample and batch of SAM 2 training. Shape legend: V videos, T frames, O objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from projects.common.reading import SampleEvent


@dataclass
class Clip:
    """A few frames of one video and the masks of a few of its objects."""

    frames: Tensor  # uint8 [T, 3, H, W], RGB
    masks: Tensor  # bool [T, O, H, W]
    object_ids: list[int]  # the O ids in the annotation
    name: str  # the video (and frames), for messages
    task: str = "track"
    seed: int = 0  # the draw's seed; prompts are drawn from it
    events: list[SampleEvent] = field(default_factory=list)
    categories: list[int] | None = None  # of the O objects, from 0; None where nobody knows

    def __post_init__(self) -> None:
        frames, masks = self.frames, self.masks
        if frames.shape[0] != masks.shape[0] or frames.shape[-2:] != masks.shape[-2:]:
            raise ValueError(
                f"clip {self.name}: frames {tuple(frames.shape)} and masks {tuple(masks.shape)} "
                "do not line up"
            )
        if masks.shape[1] != len(self.object_ids):
            raise ValueError(
                f"clip {self.name}: masks of {masks.shape[1]} objects and "
                f"{len(self.object_ids)} object ids"
            )
        if self.categories is not None and len(self.categories) != len(self.object_ids):
            raise ValueError(
                f"clip {self.name}: {len(self.object_ids)} object ids and "
                f"{len(self.categories)} categories"
            )


def visible(masks: Tensor) -> Tensor:
    """Whether masks, bool [T, O, H, W], have pixels: bool [T, O].

    NumPy stops at the first pixel and reads whole words; torch takes twenty times as long.
    """
    return torch.from_numpy(masks.numpy().reshape(*masks.shape[:2], -1).any(-1))


@dataclass
class ClipBatch:
    """Clips of one length. The objects of all videos lie along one axis ("rows")."""

    frames: Tensor  # uint8 [V, T, 3, S, S], RGB
    masks: Tensor  # bool [T, O, S, S], O over all videos
    object_to_video: Tensor  # int64 [O], ascending: which of the V videos an object belongs to
    names: list[str]  # V names
    seeds: list[int]  # V seeds of the draws, from which prompts are drawn
    task: str = "track"
    events: list[SampleEvent] = field(default_factory=list)  # of all clips
    categories: Tensor | None = None  # int64 [O], from 0; None where not all are known

    @property
    def num_frames(self) -> int:
        return self.frames.shape[1]

    @property
    def num_objects(self) -> int:
        return self.masks.shape[1]

    def objects_per_video(self) -> list[int]:
        """V counts."""
        return torch.bincount(self.object_to_video, minlength=len(self.names)).tolist()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The same batch with its tensors on ``device``."""
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory (called by the data loader)."""
        return self._each_tensor(Tensor.pin_memory)

    def _each_tensor(self, change: Callable[[Tensor], Tensor]) -> ClipBatch:
        held = {key: value for key, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{key: change(value) for key, value in held.items()})


def collate_clips(clips: Sequence[Clip]) -> ClipBatch:
    """Join clips of one task, length and size; objects are concatenated in the order of the clips.

    Raises:
        ValueError: the clips differ in task, number of frames or size.
    """
    first = clips[0]
    for clip in clips[1:]:
        if clip.task != first.task or clip.frames.shape != first.frames.shape:
            raise ValueError(
                "clips of one batch must agree in task, frames and size: "
                f"{first.name} is {first.task} {tuple(first.frames.shape)}, "
                f"{clip.name} is {clip.task} {tuple(clip.frames.shape)}; give datasets of another "
                "number of frames another task"
            )
    return ClipBatch(
        frames=torch.stack([clip.frames for clip in clips]),
        masks=torch.cat([clip.masks for clip in clips], dim=1),
        object_to_video=torch.repeat_interleave(
            torch.arange(len(clips)), torch.tensor([len(clip.object_ids) for clip in clips])
        ),
        names=[clip.name for clip in clips],
        seeds=[clip.seed for clip in clips],
        task=first.task,
        events=[event for clip in clips for event in clip.events],
        categories=_join_categories(clips),
    )


def _join_categories(clips: Sequence[Clip]) -> Tensor | None:
    known = [clip.categories for clip in clips if clip.categories is not None]
    if len(known) < len(clips):
        return None
    return torch.tensor([category for categories in known for category in categories])
