"""From PNG files to losses: clips in which objects appear late, and whose first frame is empty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from projects.common.samplers import Draw
from projects.sam2_video.data.clip import ClipBatch, collate_clips
from projects.sam2_video.data.dataset import ClipDataset
from projects.sam2_video.data.png import PaletteSource
from projects.sam2_video.data.samplers import UniformSampler
from projects.sam2_video.data.transforms import HorizontalFlip, RandomAffine, ResizeSquare
from projects.sam2_video.losses import MultiStepMaskLoss, SimpleMaskLoss
from projects.sam2_video.prompting import PromptSimulator, SecSimulator
from projects.sam2_video.toy import toy_sam2
from projects.sam2_video.train_model import TrainingUnroll
from tests.sam2_video.data.files import write_ids

SIDE = 64
# video: per frame the objects that it shows, and where they begin
VIDEOS = {
    "late": [{}, {}, {1: (4, 4)}, {1: (6, 8)}],
    "gap": [{}, {3: (10, 10)}, {}, {3: (20, 20)}],
    "two": [{1: (0, 0)}, {1: (0, 4)}, {1: (0, 8), 2: (40, 40)}, {2: (44, 40)}],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("late")
    rng = np.random.default_rng(0)
    for name, frames in VIDEOS.items():
        (root / "images" / name).mkdir(parents=True)
        for number, shown in enumerate(frames):
            image = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "images" / name / f"{number:05d}.png")
            masks = {0: np.zeros((SIDE, SIDE), bool)}
            for key, (top, left) in shown.items():
                masks[key] = np.zeros((SIDE, SIDE), bool)
                masks[key][top : top + 16, left : left + 16] = True
            write_ids(root / "masks" / name / f"{number:05d}.png", masks)
    return root


def draw(root, *names: str, seed: int = 0, transforms=()) -> ClipBatch:
    dataset = ClipDataset(
        source=PaletteSource(image_root=root / "images", annotation_root=root / "masks"),
        sampler=UniformSampler(num_frames=4, max_objects=3, late_objects=True),
        transforms=[*transforms, ResizeSquare(size=32)],
    )
    places = [dataset.source.names.index(name) for name in names]
    return collate_clips([dataset[Draw(0, place, seed + place)] for place in places])


@pytest.mark.parametrize("simulator", [PromptSimulator(), SecSimulator(tracked_frames=2)])
@pytest.mark.parametrize("loss", [MultiStepMaskLoss(), SimpleMaskLoss()])
def test_every_object_trains_from_its_first_frame_on(root, simulator, loss):
    model = toy_sam2(image_size=32)
    transforms = [RandomAffine(), HorizontalFlip()]
    for seed in range(2):
        batch = draw(root, *VIDEOS, seed=seed, transforms=transforms)
        assert batch.num_objects == 4
        first = batch.masks.flatten(2).any(2).int().argmax(0)  # [O]
        assert sorted(first.tolist()) == [0, 1, 2, 2]
        unroll = TrainingUnroll(simulator=simulator, loss=loss)
        for step in unroll.steps(model, batch):
            rows = range(4) if step.rows is None else step.rows
            assert all(step.frame >= first[row] for row in rows)
        losses = unroll(model, batch)
        total = sum(value for name, value in losses.items() if name.startswith("loss_"))
        assert torch.isfinite(total)
        model.zero_grad()
        total.backward()
        assert model.blocks.mask_decoder.iou_token.weight.grad.abs().sum() > 0


def test_frames_before_an_object_appears_change_nothing(root):
    """With given masks nothing is drawn: a clip without its empty frames gives the same losses."""
    batch = draw(root, "late")
    assert not batch.masks[:2].any() and batch.masks[2:].flatten(2).any(2).all()
    short = ClipBatch(
        frames=batch.frames[:, 2:],
        masks=batch.masks[2:],
        object_to_video=batch.object_to_video,
        names=batch.names,
        seeds=batch.seeds,
    )
    simulator = PromptSimulator(point_prob=0.0, max_conditioning_frames=1)
    unroll = TrainingUnroll(simulator=simulator, loss=MultiStepMaskLoss())
    model = toy_sam2(image_size=32).eval()
    whole, cut = unroll(model, batch), unroll(model, short)
    assert whole.keys() == cut.keys()
    for name, value in cut.items():
        torch.testing.assert_close(whole[name], value, rtol=1e-4, atol=1e-6)
