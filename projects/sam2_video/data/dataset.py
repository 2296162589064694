"""Videos of an annotation source turned into clips: one dataset class for every source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from projects.sam2_video.data.clip import Clip
from projects.sam2_video.data.sources import AnnotatedVideo, AnnotationSource

ATTEMPTS = 10  # draws of frames and transforms before a video counts as one without objects


class Drawn(Protocol):
    """What the batch sampler asks for (``projects.common.samplers.Draw``)."""

    index: int
    seed: int


class PlainDraw(NamedTuple):
    index: int
    seed: int = 0


class ClipSampler(Protocol):
    min_frames: int

    def frames(self, video_frames: int, rng: np.random.Generator) -> list[int]: ...

    def objects(self, visible: Sequence[int], rng: np.random.Generator) -> list[int]: ...


class ClipDataset(torch.utils.data.Dataset):
    """``source`` says what there is, ``sampler`` what a clip takes, ``transforms`` how it looks.

    Every object of a clip is visible on the clip's first frame. A sample depends on the draw
    (index and seed) alone. Datasets of another number of frames are another ``task``, since the
    clips of one batch have one length.
    """

    def __init__(
        self,
        *,
        source: AnnotationSource,
        sampler: ClipSampler,
        transforms: Sequence[Callable[[Clip, np.random.Generator], Clip]] = (),
        task: str = "track",
    ) -> None:
        self.source = source
        self.sampler = sampler
        self.transforms = tuple(transforms)
        self.task = task

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: Drawn | int) -> Clip:
        if isinstance(draw, int):
            draw = PlainDraw(draw)
        video = self.source[draw.index]
        if video.num_frames < self.sampler.min_frames:
            raise ValueError(
                f"{video.name}: {video.num_frames} annotated frames, but a clip wants "
                f"{self.sampler.min_frames}; use shorter clips or leave it out by a file list"
            )
        rng = np.random.default_rng(draw.seed)
        for _ in range(ATTEMPTS):
            clip = self._draw_clip(video, rng, draw.seed)
            if clip is not None:
                return clip
        raise ValueError(
            f"{video.name}: no object is visible on the first frame of any of {ATTEMPTS} drawn "
            "clips; leave the video out by a file list"
        )

    def _draw_clip(self, video: AnnotatedVideo, rng: np.random.Generator, seed: int) -> Clip | None:
        indices = self.sampler.frames(video.num_frames, rng)
        first = video.read_masks(indices[0])
        visible = sorted(key for key, mask in first.items() if mask.any())
        if not visible:
            return None
        objects = self.sampler.objects(visible, rng)
        masks = _stack_masks([first, *(video.read_masks(i) for i in indices[1:])], objects)
        frames = np.ascontiguousarray(video.read_frames(indices).transpose(0, 3, 1, 2))
        if frames.shape[-2:] != masks.shape[-2:]:
            raise ValueError(
                f"{video.name}: frames are {frames.shape[-2:]} and masks {masks.shape[-2:]} "
                "(height, width)"
            )
        clip = Clip(
            frames=torch.from_numpy(frames),
            masks=torch.from_numpy(masks),
            object_ids=objects,
            name=video.name,
            task=self.task,
            seed=seed,
        )
        for transform in self.transforms:
            clip = transform(clip, rng)
        return _keep_visible(clip)


def _stack_masks(per_frame: list[dict[int, np.ndarray]], objects: list[int]) -> np.ndarray:
    """bool [T, O, H, W]; an object that a frame does not list is absent there."""
    empty = np.zeros_like(per_frame[0][objects[0]])
    return np.stack([[masks.get(key, empty) for key in objects] for masks in per_frame])


def _keep_visible(clip: Clip) -> Clip | None:
    """Drop objects that the transforms moved out of, or shrank out of, the first frame."""
    keep = clip.masks[0].flatten(1).any(1)
    if keep.all():
        return clip
    if not keep.any():
        return None
    clip.masks = clip.masks[:, keep]
    kept = zip(clip.object_ids, keep.tolist(), strict=True)
    clip.object_ids = [key for key, stays in kept if stays]
    return clip
