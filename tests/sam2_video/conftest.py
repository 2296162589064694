"""Small models and clips for the tests of stage 1."""

from __future__ import annotations

import pytest
import torch

from projects.sam2_video.data.clip import Clip, ClipBatch, collate_clips
from projects.sam2_video.modeling.blocks import Sam2
from projects.sam2_video.toy import toy_sam2


@pytest.fixture(scope="session")
def random_sam2() -> Sam2:
    """A toy model with random weights whose objects count as present; do not train it."""
    model = toy_sam2(seed=1)
    with torch.no_grad():
        model.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
    return model.eval()


def moving_squares(*, frames: int, objects: int, seed: int, side: int = 96) -> Clip:
    """Squares of their own colours that move to the right over noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 80, (frames, 3, side, side), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(frames, objects, side, side, dtype=torch.bool)
    for row in range(objects):
        colour = torch.randint(120, 255, (3, 1, 1), dtype=torch.uint8, generator=generator)
        top = 5 + (side - 30) * row // max(objects, 1)
        left = int(torch.randint(0, side // 2, (1,), generator=generator))
        for frame in range(frames):
            box = (slice(top, top + 22), slice(left + 4 * frame, left + 4 * frame + 22))
            masks[frame, :, box[0], box[1]] = False
            masks[frame, row, box[0], box[1]] = True
            images[frame, :, box[0], box[1]] = colour
    return Clip(images, masks, list(range(objects)), f"clip {seed}", seed=seed)


@pytest.fixture(scope="session")
def clip_batch():
    """``clip_batch(frames=T, objects=(n, ...), seed=0)``: one clip per entry of ``objects``."""
    return make_batch


@pytest.fixture(scope="session")
def clip():
    """``clip(frames=T, objects=n, seed=0)``."""
    return moving_squares


def make_batch(*, frames: int, objects: tuple[int, ...], seed: int = 0) -> ClipBatch:
    clips = [
        moving_squares(frames=frames, objects=count, seed=seed + number)
        for number, count in enumerate(objects)
    ]
    return collate_clips(clips)
