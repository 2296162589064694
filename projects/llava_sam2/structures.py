"""What the datasets hand to the grounded language model: a sample, a batch, and the collate.

Shapes: B samples; L tokens; N tiles (all samples together); F frames for SAM 2 (all samples
together); E expressions with masks of one sample; T its frames; S the square input of SAM 2;
h, w the resolution of the mask loss; P frames whose features are given, of width C, with P' those
of all samples together; R regions that the questions of one sample point at, on the grid of a
tile's visual tokens. Tiles are squares of one size, or pictures of their own sizes.

What the language model sees is pixels (tiles) or features of frames, never both in one sample.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from projects.common.reading import SampleEvent

IGNORE_INDEX = -100  # a label that is not supervised


def square_side(tokens: int) -> int:
    """Side of the square grid of a tile's visual tokens.

    Raises:
        ValueError: they make no square.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} visual tokens a tile do not make a square")
    return side


@dataclass
class GroundingSample:
    """One conversation about one image or video.

    ``input_ids`` hold exactly as many [SEG] tokens as ``masks`` has expressions, in the same
    order. ``masks`` are resized (nearest) to the loss resolution by the dataset.
    """

    task: str  # names the head that trains on it: segment, chat, ...
    name: str  # says in errors which sample this is
    input_ids: Tensor  # [L] int64
    labels: Tensor  # [L] int64, IGNORE_INDEX where not supervised
    pixel_values: Tensor | None = None  # [tiles, 3, H, W] uint8 RGB, for the language model
    grounding_frames: Tensor | None = None  # [T, 3, S, S] uint8 RGB, for SAM 2; an image has T = 1
    masks: Tensor | None = None  # [E, T, h, w] bool
    features: Tensor | None = None  # [P, C] float, in place of pixel_values
    regions: Tensor | None = None  # [R, rows, columns] bool: visual tokens of the last tile
    events: list[SampleEvent] = field(default_factory=list)  # what a run should count


@dataclass
class GroundingBatch:
    """A task-pure batch. Pixels stay uint8 RGB until the model normalises them on its device."""

    task: str
    names: list[str]
    input_ids: Tensor  # [B, L] int64, padded on the right
    attention_mask: Tensor  # [B, L] bool, False on padding
    labels: Tensor  # [B, L] int64, IGNORE_INDEX where not supervised
    # [N, 3, H, W] uint8 RGB, in the order of the samples; one for each where their sizes differ
    pixel_values: Tensor | list[Tensor] | None
    grounding_frames: Tensor | None  # [F, 3, S, S] uint8 RGB, in the order of the samples
    frames_per_sample: list[int]  # sums to F; 0 where a sample brings no frames
    masks: list[Tensor | None]  # per sample [E, T, h, w] bool, or None
    features: Tensor | None  # [P', C] float, in the order of the samples
    features_per_sample: list[int]  # sums to P'; 0 where a sample brings none
    tiles_per_sample: list[int]  # sums to N; 0 where a sample brings no pixels
    regions: list[Tensor | None]  # per sample [R, rows, columns] bool, or None
    events: list[SampleEvent] = field(default_factory=list)  # of all samples
    # what losses are divided by where gradients are accumulated, by key of loss_counts
    mean_counts: dict[str, float] = field(default_factory=dict)

    def loss_counts(self) -> dict[str, int]:
        """Supervised tokens, and (expression, frame) rows with masks: losses are means of these."""
        rows = sum(masks.shape[0] * masks.shape[1] for masks in self.masks if masks is not None)
        return {"tokens": int((self.labels[:, 1:] != IGNORE_INDEX).sum()), "rows": rows}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a batch whose tensors lie on ``device``."""

        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a batch in page-locked memory (called by the data loader)."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            return [apply(item) for item in value] if isinstance(value, list) else value

        fields = dataclasses.fields(self)
        return dataclasses.replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields})


def collate_grounding(samples: Sequence[GroundingSample], *, pad_id: int = 0) -> GroundingBatch:
    """Pad and concatenate samples of one task.

    The value of ``pad_id`` never reaches a result: padded positions are masked and unlabelled.

    Raises:
        ValueError: if the tasks differ, or a sample's own streams do not line up.
    """
    tasks = sorted({sample.task for sample in samples})
    if len(tasks) != 1:
        raise ValueError(f"a batch holds one task, got {tasks or 'no samples'}")
    for sample in samples:
        _check(sample)
    _check_widths(samples)
    length = max(len(sample.input_ids) for sample in samples)
    input_ids = torch.full((len(samples), length), pad_id, dtype=torch.int64)
    labels = torch.full((len(samples), length), IGNORE_INDEX, dtype=torch.int64)
    attention_mask = torch.zeros((len(samples), length), dtype=torch.bool)
    for row, sample in enumerate(samples):
        n = len(sample.input_ids)
        input_ids[row, :n] = sample.input_ids
        labels[row, :n] = sample.labels
        attention_mask[row, :n] = True
    pixels = [sample.pixel_values for sample in samples]
    frames = [sample.grounding_frames for sample in samples]
    features = [sample.features for sample in samples]
    return GroundingBatch(
        task=tasks[0],
        names=[sample.name for sample in samples],
        input_ids=input_ids,
        attention_mask=attention_mask,
        labels=labels,
        pixel_values=_together(pixels),
        grounding_frames=_concatenate(frames),
        frames_per_sample=[0 if clip is None else len(clip) for clip in frames],
        masks=[sample.masks for sample in samples],
        features=_concatenate(features),
        features_per_sample=[0 if rows is None else len(rows) for rows in features],
        tiles_per_sample=[0 if tiles is None else len(tiles) for tiles in pixels],
        regions=[sample.regions for sample in samples],
        events=[event for sample in samples for event in sample.events],
    )


def _together(parts: Sequence[Tensor | None]) -> Tensor | list[Tensor] | None:
    """One tensor of all pictures where they are of one size."""
    present = [part for part in parts if part is not None]
    alike = len({part.shape[1:] for part in present}) < 2
    return _concatenate(present) if alike else present


def _concatenate(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _check_widths(samples: Sequence[GroundingSample]) -> None:
    """Features of one batch come from one encoder."""
    first = None
    for sample in samples:
        if sample.features is None:
            continue
        first = first or sample
        if sample.features.shape[1] != first.features.shape[1]:
            raise ValueError(
                f"{first.name} has features {first.features.shape[1]} wide, {sample.name} "
                f"{sample.features.shape[1]}; they belong to different encoders"
            )


def _check(sample: GroundingSample) -> None:
    if len(sample.input_ids) != len(sample.labels):
        raise ValueError(
            f"{sample.name}: {len(sample.input_ids)} input_ids but {len(sample.labels)} labels"
        )
    if sample.features is not None and sample.pixel_values is not None:
        raise ValueError(
            f"{sample.name}: {len(sample.pixel_values)} tiles and {len(sample.features)} features; "
            "a sample brings pixels or features, not both"
        )
    if sample.regions is not None and sample.pixel_values is None:
        raise ValueError(f"{sample.name}: {len(sample.regions)} regions, but of no picture")
    if sample.masks is None:
        return
    frames = 0 if sample.grounding_frames is None else len(sample.grounding_frames)
    if sample.masks.ndim != 4 or sample.masks.shape[1] != frames:
        raise ValueError(
            f"{sample.name}: masks of shape {tuple(sample.masks.shape)} beside {frames} grounding "
            "frames; masks are [expressions, frames, h, w] with one mask a frame"
        )
