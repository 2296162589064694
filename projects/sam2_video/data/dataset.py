"""Videos of an annotation source turned into clips: one dataset class for every source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import NamedTuple, Protocol

import numpy as np
import torch

from projects.common.inspection import RecordReport
from projects.sam2_video.data.clip import Clip, visible
from projects.sam2_video.data.inspection import inspect_video
from projects.sam2_video.data.sources import AnnotatedVideo, AnnotationSource

START_ATTEMPTS = 50  # draws of frames before a video counts as one without objects
CLIP_ATTEMPTS = 5  # draws of a whole clip before its transforms count as losing every object


class Drawn(Protocol):
    """What the batch sampler asks for (``projects.common.samplers.Draw``)."""

    index: int
    seed: int


class PlainDraw(NamedTuple):
    index: int  # type: ignore[assignment]  # hides tuple.index
    seed: int = 0


class ClipSampler(Protocol):
    min_frames: int
    late_objects: bool

    def frames(self, video_frames: int, rng: np.random.Generator) -> list[int]: ...

    def objects(self, visible: Sequence[int], rng: np.random.Generator) -> list[int]: ...


class ClipDataset(torch.utils.data.Dataset):
    """``source`` says what there is, ``sampler`` what a clip takes, ``transforms`` how it looks.

    Every object of a clip is visible on the clip's first frame, or on any frame where the sampler
    takes late objects. A sample depends on the draw (index and seed) alone. Datasets of another
    number of frames are another ``task``, since the clips of one batch have one length.

    A video that is broken, too short, or shows no object raises with file and record; what becomes
    of the run then is said by ``train_dataloader.on_read_error``.
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
        return self._sample(draw.index, draw.seed)

    def inspect(self, index: int) -> RecordReport:
        """Read a whole video and say what is in it and what is wrong."""
        return inspect_video(self.source[index], min_frames=self.sampler.min_frames)

    def _sample(self, index: int, seed: int) -> Clip:
        video = self.source[index]
        if video.num_frames < self.sampler.min_frames:
            raise ValueError(
                f"{video.name}: {video.num_frames} annotated frames, but a clip wants "
                f"{self.sampler.min_frames}; use shorter clips, pass repeat_short=True to the "
                "sampler, or leave the video out by a file list"
            )
        rng = np.random.default_rng(seed)
        for _ in range(CLIP_ATTEMPTS):
            clip = self._draw_clip(video, rng, seed)
            for transform in self.transforms:
                clip = transform(clip, rng)
            kept = _keep_visible(clip, late=self.sampler.late_objects)
            if kept is not None:
                return kept
        raise ValueError(
            f"{video.name}: the transforms lose every object in {CLIP_ATTEMPTS} drawn clips; its "
            "objects may be too small for the image size, leave the video out by a file list"
        )

    def _draw_clip(self, video: AnnotatedVideo, rng: np.random.Generator, seed: int) -> Clip:
        indices, shown = self._draw_frames(video, rng)
        objects = self.sampler.objects(shown, rng)
        frames = _planar(video.read_frames(indices))
        masks = _stack_masks([video.read_masks(i, objects) for i in indices], objects, video.name)
        if frames.shape[-2:] != masks.shape[-2:]:
            raise ValueError(
                f"{video.name}: frames are {frames.shape[-2:]} and masks {masks.shape[-2:]} "
                "(height, width)"
            )
        return Clip(
            frames=torch.from_numpy(frames),
            masks=torch.from_numpy(masks),
            object_ids=objects,
            name=video.name,
            task=self.task,
            seed=seed,
            categories=_categories(video, objects),
        )

    def _draw_frames(
        self, video: AnnotatedVideo, rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """Frames of a clip, and the objects that it may take."""
        for _ in range(START_ATTEMPTS):
            indices = self.sampler.frames(video.num_frames, rng)
            looked_at = indices if self.sampler.late_objects else indices[:1]
            shown = sorted({key for i in looked_at for key in video.visible_objects(i)})
            if shown:
                return indices, shown
        where = "any" if self.sampler.late_objects else "the first"
        raise ValueError(
            f"{video.name}: no object is visible on {where} frame in any of {START_ATTEMPTS} drawn "
            "clips; leave the video out by a file list"
        )


def _categories(video: AnnotatedVideo, objects: list[int]) -> list[int] | None:
    known = getattr(video, "categories", None)
    return None if known is None else [known[key] for key in objects]


def _planar(frames: np.ndarray) -> np.ndarray:
    """[T, H, W, 3] to [T, 3, H, W]; frame by frame, which is several times as fast as at once."""
    planes = np.empty((len(frames), 3, *frames.shape[1:3]), frames.dtype)
    for frame, out in zip(frames, planes, strict=True):
        out[:] = frame.transpose(2, 0, 1)
    return planes


def _stack_masks(
    per_frame: list[dict[int, np.ndarray]], objects: list[int], name: str
) -> np.ndarray:
    """bool [T, O, H, W]; an object that a frame does not list is absent there."""
    shapes = {mask.shape for masks in per_frame for mask in masks.values()}
    if len(shapes) != 1:
        raise ValueError(f"{name}: the masks of one clip have several sizes: {sorted(shapes)}")
    stacked = np.zeros((len(per_frame), len(objects), *shapes.pop()), dtype=bool)
    for frame, masks in enumerate(per_frame):
        for row, key in enumerate(objects):
            if key in masks:
                stacked[frame, row] = masks[key]
    return stacked


def _keep_visible(clip: Clip, *, late: bool) -> Clip | None:
    """Drop objects that the transforms moved or shrank out of the first frame (or of the clip)."""
    shown = visible(clip.masks)  # [T, O]
    keep = shown.any(0) if late else shown[0]
    if keep.all():
        return clip
    if not keep.any():
        return None
    clip.masks = clip.masks[:, keep]
    clip.object_ids = list(compress(clip.object_ids, keep))
    if clip.categories is not None:
        clip.categories = list(compress(clip.categories, keep))
    return clip
