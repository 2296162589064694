"""Where a simulated user's clicks and boxes fall; batched over rows (objects).

Follows the prompt simulation of SAM 2's training (Ravi et al., 2024). Points are pixels (x, y) of
the model's square input; labels: 1 positive, 0 negative, 2 and 3 the corners of a box, -1 padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


class RowRandom:
    """Uniform numbers for rows, each from a generator of its own.

    What a row draws depends on its clip's seed and its place in the clip alone, so that the same
    objects in one process or spread over several, together or in chunks, get the same prompts.

    Args:
        seeds: of each row, ``(seed of its clip, place in its clip)``.
        device: where the numbers are wanted.
    """

    def __init__(
        self, seeds: Sequence[tuple[int, int]], device: torch.device | str = "cpu"
    ) -> None:
        self.seeds = list(seeds)
        self.device = torch.device(device)
        self.generators = [
            torch.Generator(self.device).manual_seed(_mix(seed, place)) for seed, place in seeds
        ]

    @classmethod
    def of_clips(
        cls, seeds: Sequence[int], counts: Sequence[int], device: torch.device | str = "cpu"
    ) -> RowRandom:
        """Rows of clips with these seeds and numbers of objects; rows of a clip lie together."""
        if len(seeds) != len(counts):
            raise ValueError(f"{len(seeds)} seeds for {len(counts)} clips")
        pairs = zip(seeds, counts, strict=True)
        return cls([(seed, place) for seed, count in pairs for place in range(count)], device)

    def rows(self, index: Sequence[int]) -> RowRandom:
        """The rows ``index``, from their first number on."""
        return RowRandom([self.seeds[row] for row in index], self.device)

    def uniform(self, *shape: int) -> Tensor:
        """float32 ``[rows, *shape]`` in 0..1."""
        parts = [torch.rand(shape, generator=g, device=self.device) for g in self.generators]
        return torch.stack(parts)


def _mix(seed: int, place: int) -> int:
    """One seed of 64 bits for a row; neighbouring rows get unrelated ones."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0])


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
