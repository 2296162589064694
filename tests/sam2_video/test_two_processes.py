"""The same clips in one process or spread over two give the same losses and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import projects  # noqa: F401  (compatibility lines first: spawned processes start here)
from projects.sam2_video.data.clip import Clip, collate_clips
from projects.sam2_video.losses import MultiStepMaskLoss
from projects.sam2_video.modeling.tracker import TrackingPolicy
from projects.sam2_video.prompting import PromptSimulator
from projects.sam2_video.toy import toy_sam2
from projects.sam2_video.train_model import TrainingUnroll

OBJECTS = (2, 1, 3)  # per clip; rank 0 has the first clip, rank 1 the others


def clips():
    made = []
    for seed, count in enumerate(OBJECTS):
        generator = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 255, (3, 3, 96, 96), dtype=torch.uint8, generator=generator)
        masks = torch.zeros(3, count, 96, 96, dtype=torch.bool)
        for row in range(count):
            masks[:, row, 10 + 25 * row : 30 + 25 * row, 20 + 10 * seed : 60 + 10 * seed] = True
        masks[1 + seed % 2, 0] = False  # frames 1 and 2 each miss an object on one of the ranks
        made.append(Clip(frames, masks, list(range(count)), f"clip {seed}", seed=40 + seed))
    return made


def losses_and_gradient(batch):
    torch.set_num_threads(1)
    model = toy_sam2(seed=0)
    unroll = TrainingUnroll(
        simulator=PromptSimulator(point_prob=1.0, num_correction_clicks=2),
        loss=MultiStepMaskLoss(),
        policy=TrackingPolicy(hide_absent=False),
        loss_resolution="logits",
    )
    losses = unroll(model, batch)
    sum(losses.values()).backward()
    gradient = model.blocks.mask_decoder.mask_tokens.weight.grad
    return torch.cat([torch.stack(list(losses.values())).detach(), gradient.flatten()])


def worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        own = clips()[:1] if rank == 0 else clips()[1:]
        values = losses_and_gradient(collate_clips(own))
        dist.all_reduce(values)
        if rank == 0:
            torch.save(values / 2, f"{folder}/mean.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    spread = torch.load(tmp_path / "mean.pt", weights_only=True)
    alone = losses_and_gradient(collate_clips(clips()))
    assert spread[:4].tolist() == pytest.approx(alone[:4].tolist(), rel=1e-4)
    assert alone[4:].abs().max() > 0
    assert torch.allclose(spread, alone, rtol=1e-3, atol=1e-5 * alone[4:].abs().max().item())
