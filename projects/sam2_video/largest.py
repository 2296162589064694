"""The largest batch of clips that a config can draw, without its files: to estimate memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from projects.sam2_video.data.clip import ClipBatch
from projects.sam2_video.prompting import PromptPlan, PromptSimulator

_SEEDS = 100  # draws among which the most expensive prompts are looked for


@dataclass(frozen=True)
class ClipShape:
    """How large a batch of clips is."""

    task: str
    videos: int
    frames: int
    objects: int  # of each video

    def __str__(self) -> str:
        return f"{self.task}: {self.videos} x {self.frames} frames, {self.objects} objects each"

    def batch(self, *, side: int, simulator: PromptSimulator | None) -> ClipBatch:
        """Objects in the middle of frames that have no contents (they are on the meta device).

        Args:
            side: S of the model's input.
            simulator: draws the prompts; the batch has the seed with the most to decode. None
                where nothing is prompted.
        """
        masks = torch.zeros(self.frames, self.videos * self.objects, side, side, dtype=torch.bool)
        masks[..., side // 4 : side // 2, side // 4 : side // 2] = True
        pixels = (self.videos, self.frames, 3, side, side)
        rows, seed = masks.shape[1], 0
        if simulator is not None:
            seed = expensive_seed(simulator, frames=self.frames, rows=rows)
        return ClipBatch(
            frames=torch.empty(pixels, dtype=torch.uint8, device="meta"),
            masks=masks,
            object_to_video=torch.arange(self.videos).repeat_interleave(self.objects),
            names=[f"clip {number}" for number in range(self.videos)],
            seeds=[seed] * self.videos,
            task=self.task,
            categories=torch.zeros(rows, dtype=torch.int64),
        )


def clip_shape(dataset: Mapping[str, Any], batch_size: int) -> ClipShape:
    """Of a ``ClipDataset`` in a config.

    Raises:
        ValueError: its sampler does not say how many frames and objects a clip has.
    """
    sampler = dataset["sampler"]
    lacking = [key for key in ("num_frames", "max_objects") if key not in sampler]
    if lacking:
        raise ValueError(f"dataset.sampler {dict(sampler)} does not say {' and '.join(lacking)}")
    return ClipShape(
        task=dataset.get("task", "track"),
        videos=batch_size,
        frames=sampler["num_frames"],
        objects=sampler["max_objects"],
    )


def expensive_seed(simulator: PromptSimulator, *, frames: int, rows: int) -> int:
    """Of many seeds the one whose plans decode most."""
    visible = np.ones((frames, rows), dtype=bool)

    def decodes(seed: int) -> int:
        plans = simulator.plan(visible, np.random.default_rng([seed, 1]))
        return sum(_decodes(plan, frames, rows, simulator) for plan in plans)

    return max(range(_SEEDS), key=decodes)


def _decodes(plan: PromptPlan, frames: int, rows: int, simulator: PromptSimulator) -> int:
    visits = len(plan.order(frames)) + len(plan.correction) * simulator.num_correction_clicks
    return visits * (rows if plan.rows is None else len(plan.rows))
