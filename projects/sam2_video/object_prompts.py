"""What a user says about objects of a video, and how it becomes the network's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.sam2_video.modeling.typed import (
    BOX_END,
    BOX_START,
    PADDING,
    MixedPrompt,
    Prompt,
)


@dataclass(frozen=True)
class ObjectPrompt:
    """What a user says about one object on one frame, in pixels of the video.

    Either ``mask``, or ``box`` and/or ``points``. A prompt starts the object: its frame is answered
    without memory, as SAM would, and every other frame reads it. A ``correction`` mends a frame
    that is tracked: its clicks are decoded with the memory and with the mask that they correct.
    """

    object_id: int
    frame: int
    points: np.ndarray | None = None  # float [P, 2], (x, y)
    labels: np.ndarray | None = None  # int [P], 1 positive, 0 negative
    box: np.ndarray | None = None  # float [4], x1, y1, x2, y2
    mask: np.ndarray | None = None  # bool [H, W]
    correction: bool = False

    def __post_init__(self) -> None:
        where = f"prompt of {self.place}"
        if self.mask is not None and (self.points is not None or self.box is not None):
            raise ValueError(f"{where}: give a mask, or points and a box, not both")
        nothing = self.points is None or len(self.points) == 0
        if self.mask is None and self.box is None and nothing:
            raise ValueError(f"{where}: give points, a box or a mask")
        if (self.points is None) != (self.labels is None):
            raise ValueError(f"{where}: points need a label each (1 positive, 0 negative)")
        if self.points is not None and len(self.points) != len(self.labels):
            raise ValueError(f"{where}: {len(self.points)} points and {len(self.labels)} labels")

    @property
    def place(self) -> str:
        """Object and frame, for messages."""
        return f"object {self.object_id} on frame {self.frame}"


def check_prompts(prompts: Sequence[ObjectPrompt], num_frames: int) -> None:
    """Refuse what cannot be tracked.

    Raises:
        ValueError: no prompt, two for one object and frame, one outside of the video, or a
            correction of an object that nothing starts.
    """
    if not prompts:
        raise ValueError("nothing to track: give at least one prompt")
    seen = set()
    for prompt in prompts:
        if not 0 <= prompt.frame < num_frames:
            raise ValueError(f"prompt of {prompt.place}: the video has {num_frames} frames")
        if (prompt.object_id, prompt.frame) in seen:
            raise ValueError(f"two prompts of {prompt.place}: join them into one")
        seen.add((prompt.object_id, prompt.frame))
    started = {prompt.object_id for prompt in prompts if not prompt.correction}
    for prompt in prompts:
        if prompt.object_id not in started:
            raise ValueError(
                f"correction of {prompt.place}: there is no tracked mask to correct, because no "
                "prompt starts this object"
            )


def to_network(
    prompts: Sequence[ObjectPrompt],
    *,
    size: tuple[int, int],
    side: int,
    device: torch.device,
    previous: Tensor | None = None,
) -> Prompt | MixedPrompt:
    """Prompts of B objects on one frame, in pixels of the square input.

    Args:
        size: (height, width) of the video.
        side: of the square input.
        previous: [B, 1, 4h, 4w] logits that clicks correct.
    """
    given = [row for row, prompt in enumerate(prompts) if prompt.mask is not None]
    pointed = [row for row, prompt in enumerate(prompts) if prompt.mask is None]
    parts: list[tuple[Tensor, Prompt]] = []
    if given:
        masks = torch.stack([mask_to_input(prompts[row], size, side, device) for row in given])
        parts.append((torch.tensor(given), Prompt(mask=masks)))
    if pointed:
        points, labels = _points([prompts[row] for row in pointed], size, side)
        corrected = None if previous is None else previous[pointed]
        clicks = Prompt(points=points.to(device), labels=labels.to(device), previous=corrected)
        parts.append((torch.tensor(pointed), clicks))
    return parts[0][1] if len(parts) == 1 else MixedPrompt(len(prompts), parts)


def _points(
    prompts: Sequence[ObjectPrompt], size: tuple[int, int], side: int
) -> tuple[Tensor, Tensor]:
    """points ``[B, P, 2]`` and labels ``[B, P]``; a box comes first, short rows end in -1."""
    height, width = size
    scale = torch.tensor([width, height])
    rows = []
    for prompt in prompts:
        points, labels = torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
        if prompt.box is not None:
            points = torch.as_tensor(np.asarray(prompt.box, np.float32)).reshape(2, 2)
            labels = torch.tensor([BOX_START, BOX_END])
        if prompt.points is not None:
            clicks = torch.as_tensor(np.asarray(prompt.points, np.float32)).reshape(-1, 2)
            points = torch.cat([points, clicks])
            labels = torch.cat([labels, torch.as_tensor(np.asarray(prompt.labels)).long()])
        rows.append((points / scale * side, labels))
    longest = max(len(labels) for _, labels in rows)
    points = torch.stack([F.pad(p, (0, 0, 0, longest - len(p))) for p, _ in rows])
    labels = torch.stack([F.pad(n, (0, longest - len(n)), value=PADDING) for _, n in rows])
    return points, labels


def mask_to_input(
    prompt: ObjectPrompt, size: tuple[int, int], side: int, device: torch.device
) -> Tensor:
    """The mask of a prompt at the input's resolution, bool ``[1, S, S]``."""
    mask = torch.as_tensor(np.asarray(prompt.mask), device=device)
    if tuple(mask.shape) != tuple(size):
        raise ValueError(
            f"mask of {prompt.place} is {tuple(mask.shape)}, the frame {tuple(size)} "
            "(height, width)"
        )
    mask = mask.bool()  # also of 0 and 255
    if tuple(size) == (side, side):
        return mask[None]
    resized = F.interpolate(
        mask.float()[None, None], (side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0] >= 0.5
