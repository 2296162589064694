"""Simulated users: which frames are prompted, and where clicks and boxes fall.

Follows the prompt simulation of SAM 2's training (Ravi et al., 2024). Everything is batched over
rows (objects) and drawn from generators that the caller passes in. Points are pixels (x, y) of the
model's square input; labels: 1 positive, 0 negative, 2 and 3 the corners of a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


class RowRandom:
    """Uniform numbers for rows, each video's from a generator of its own.

    What a row draws depends on its own clip's seed alone, so that the same clips in one process or
    spread over several give the same prompts.

    Args:
        seeds: one per video.
        counts: rows (objects) per video; rows of a video lie together.
        device: where the numbers are wanted.
    """

    def __init__(
        self, seeds: Sequence[int], counts: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        if len(seeds) != len(counts):
            raise ValueError(f"{len(seeds)} seeds for {len(counts)} videos")
        self.counts = list(counts)
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def uniform(self, *shape: int) -> Tensor:
        """float32 ``[rows, *shape]`` in 0..1."""
        parts = [
            torch.rand(count, *shape, generator=generator, device=generator.device)
            for count, generator in zip(self.counts, self.generators, strict=True)
        ]
        return torch.cat(parts)


@dataclass(frozen=True)
class PromptPlan:
    """Which frames of a clip receive what. Equal for all rows of a batch."""

    conditioning: list[int]  # prompted first, decoded without memory; the first is frame 0
    mask_prompts: bool  # the ground truth mask is given, else a click or a box
    box_frames: frozenset[int] = field(default_factory=frozenset)  # those that start with a box
    correction: frozenset[int] = field(default_factory=frozenset)  # those that get more clicks


class PromptSimulator:
    """Draws plans and prompts; each probability of the recipe is an argument.

    Args:
        point_prob: points (clicks or a box) rather than the mask; a one-frame clip always uses
            points.
        box_prob: of those, a box rather than a click.
        max_conditioning_frames: 1 to n initial conditioning frames, frame 0 always among them.
        max_correction_frames: at most this many frames receive correction clicks, conditioning
            frames first; only where points are used.
        num_correction_clicks: clicks per such frame.
        gt_click_prob: a correction click comes from the ground truth, not from the error region.
        mix_rows: each object of a batch draws for itself whether it starts with a box or a click
            (SAM 2 draws once for all). Steadier gradients where a model learns from scratch. Not
            with ZeRO-3: the decoder runs once per kind, and ranks may draw unlike kinds.
        box_noise, max_box_noise: jitter of a box's sides, as a share of its size and in pixels.
    """

    def __init__(
        self,
        *,
        point_prob: float = 0.5,
        box_prob: float = 0.5,
        max_conditioning_frames: int = 2,
        max_correction_frames: int = 2,
        num_correction_clicks: int = 7,
        gt_click_prob: float = 0.1,
        mix_rows: bool = False,
        box_noise: float = 0.1,
        max_box_noise: float = 20.0,
    ) -> None:
        shares = dict(point_prob=point_prob, box_prob=box_prob, gt_click_prob=gt_click_prob)
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"PromptSimulator: {name} must be in 0..1, got {value}")
        if max_conditioning_frames < 1 or max_correction_frames < 0 or num_correction_clicks < 0:
            raise ValueError(
                "PromptSimulator wants max_conditioning_frames >= 1, max_correction_frames and "
                f"num_correction_clicks >= 0, got {max_conditioning_frames}, "
                f"{max_correction_frames}, {num_correction_clicks}"
            )
        self.point_prob = point_prob
        self.box_prob = box_prob
        self.max_conditioning_frames = max_conditioning_frames
        self.max_correction_frames = max_correction_frames
        self.num_correction_clicks = num_correction_clicks
        self.gt_click_prob = gt_click_prob
        self.mix_rows = mix_rows
        self.box_noise = box_noise
        self.max_box_noise = max_box_noise

    def plan(self, promptable: list[bool], rng: np.random.Generator) -> PromptPlan:
        """Draw what happens on each frame.

        Args:
            promptable: per frame, whether every object is visible. An object that is absent has no
                box and no click of its own, so only such frames become conditioning frames.

        Raises:
            ValueError: an object is absent on frame 0.
        """
        num_frames = len(promptable)
        if not promptable[0]:
            raise ValueError("an object is absent on the first frame of its clip")
        use_points = num_frames == 1 or rng.random() < self.point_prob
        # a clip whose frames are all given as masks has nothing left to predict
        most = min(self.max_conditioning_frames, num_frames if use_points else num_frames - 1)
        wanted = int(rng.integers(1, most + 1))
        others = [frame for frame in range(1, num_frames) if promptable[frame]]
        count = min(wanted - 1, len(others))
        extra = rng.choice(others, count, replace=False) if count else []
        conditioning = [0, *sorted(int(frame) for frame in extra)]
        if not use_points:
            return PromptPlan(conditioning=conditioning, mask_prompts=True)
        boxes = frozenset(frame for frame in conditioning if rng.random() < self.box_prob)
        return PromptPlan(
            conditioning=conditioning,
            mask_prompts=False,
            box_frames=boxes,
            correction=self._correction_frames(num_frames, conditioning, rng),
        )

    def _correction_frames(
        self, num_frames: int, conditioning: list[int], rng: np.random.Generator
    ) -> frozenset[int]:
        """Conditioning frames first; what is left of the draw comes from the other frames."""
        if not self.max_correction_frames or not self.num_correction_clicks:
            return frozenset()
        most = min(self.max_correction_frames, num_frames)
        least = min(len(conditioning), most)
        wanted = int(rng.integers(least, most + 1))
        others = [frame for frame in range(num_frames) if frame not in conditioning]
        extra = (
            rng.choice(others, min(wanted - least, len(others)), replace=False) if others else []
        )
        return frozenset([*conditioning[:wanted], *(int(frame) for frame in extra)])

    def first_points(self, masks: Tensor, *, box: bool, random: RowRandom) -> tuple[Tensor, Tensor]:
        """The first points of a conditioning frame: a positive click or two corners of a box.

        Args:
            masks: bool ``[B, S, S]``, none empty.
            box: what the plan says for all rows; with ``mix_rows`` every row draws.

        Returns:
            points float ``[B, P, 2]``, labels int64 ``[B, P]``; P is 1 or 2. Among rows that start
            with a box, a click is filled up by a padding point (label -1).
        """
        if self.mix_rows:
            return self._mixed_points(masks, random)
        if box:
            return self._boxes(masks, random)
        return sample_clicks(masks, None, random=random)

    def _boxes(self, masks: Tensor, random: RowRandom) -> tuple[Tensor, Tensor]:
        return sample_boxes(
            masks, noise=self.box_noise, max_noise=self.max_box_noise, random=random
        )

    def _mixed_points(self, masks: Tensor, random: RowRandom) -> tuple[Tensor, Tensor]:
        """A box or a click per row.

        Every row draws both, so that what it gets does not depend on its neighbours' draws.
        """
        boxed = random.uniform() < self.box_prob
        points, labels = self._boxes(masks, random)
        click, label = sample_clicks(masks, None, random=random)
        if not boxed.any():
            return click, label
        click = torch.cat([click, torch.zeros_like(click)], dim=1)
        label = torch.cat([label, torch.full_like(label, -1)], dim=1)
        return (
            torch.where(boxed[:, None, None], points, click),
            torch.where(boxed[:, None], labels, label),
        )

    def correction_click(
        self,
        masks: Tensor,
        predicted: Tensor,
        *,
        rng: np.random.Generator,
        random: RowRandom,
    ) -> tuple[Tensor, Tensor]:
        """One more click per row; ``predicted`` is bool ``[B, S, S]`` like ``masks``."""
        from_truth = rng.random() < self.gt_click_prob
        return sample_clicks(masks, None if from_truth else predicted, random=random)


def sample_clicks(
    masks: Tensor, predicted: Tensor | None, *, random: RowRandom
) -> tuple[Tensor, Tensor]:
    """One click per row, uniform over the pixels where prediction and ground truth differ.

    Positive where the object was missed, negative where background was taken for it. A row without
    an error gets a negative click in the background (a positive one if there is none). Without
    a prediction, or ``predicted=None``, the click is uniform over the object.

    Args:
        masks: bool ``[B, H, W]``.
        predicted: bool ``[B, H, W]`` or None.

    Returns:
        points float32 ``[B, 1, 2]``, labels int64 ``[B, 1]``.
    """
    truth = masks.flatten(1)
    error = truth if predicted is None else truth ^ predicted.flatten(1)
    correct = ~error.any(1, keepdim=True)
    region = torch.where(correct, ~truth | truth.all(1, keepdim=True), error)
    noise = random.uniform(region.shape[1])
    index = torch.where(region, noise, -1.0).argmax(1, keepdim=True)  # uniform over the region
    width = masks.shape[-1]
    points = torch.stack([index % width, index // width], dim=-1).float()
    return points, truth.gather(1, index).long()


def sample_boxes(
    masks: Tensor, *, noise: float, max_noise: float, random: RowRandom
) -> tuple[Tensor, Tensor]:
    """The two corner pixels of each mask's bounding box, jittered and kept inside of the image.

    Args:
        masks: bool ``[B, H, W]``, none empty.
        noise: each coordinate moves by up to this share of the box's width or height,
        max_noise: but by no more than so many pixels.

    Returns:
        points float32 ``[B, 2, 2]``, labels int64 ``[B, 2]`` (2, 3).

    Raises:
        ValueError: a mask is empty; it has no box.
    """
    empty = ~masks.flatten(1).any(1)
    if empty.any():
        raise ValueError(f"rows {empty.nonzero().flatten().tolist()} have empty masks: no box")
    height, width = masks.shape[-2:]
    columns, rows = masks.any(-2).int(), masks.any(-1).int()  # [B, W], [B, H]
    left, top = columns.argmax(-1), rows.argmax(-1)
    right = width - 1 - columns.flip(-1).argmax(-1)
    bottom = height - 1 - rows.flip(-1).argmax(-1)
    corners = torch.stack([left, top, right, bottom], dim=-1).float()  # [B, 4]
    sides = (corners[:, 2:] - corners[:, :2]).repeat(1, 2)  # width, height, width, height
    reach = (sides * noise).clamp(max=max_noise)
    jitter = 2 * random.uniform(4) - 1
    limits = corners.new_tensor([width - 1, height - 1, width - 1, height - 1])
    corners = torch.minimum((corners + jitter * reach).clamp(min=0), limits)
    labels = torch.tensor([2, 3], device=masks.device).expand(len(masks), 2)
    return corners.reshape(-1, 2, 2), labels


def join_points(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Points ``[B, P, 2]`` and labels ``[B, P]`` of both, padding (label -1) moved to the end."""
    points = torch.cat([first[0], second[0]], dim=1)
    labels = torch.cat([first[1], second[1]], dim=1)
    padding = labels < 0
    if not padding.any():
        return points, labels
    order = torch.argsort(padding.int(), dim=1, stable=True)
    return points.gather(1, order.unsqueeze(-1).expand_as(points)), labels.gather(1, order)


def interior_point(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the pixel of a bool ``[H, W]`` mask that is farthest from its border.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("an empty mask has no interior point")
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    return int(x), int(y)
