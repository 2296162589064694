"""The whole training step against PyPI's ``sam2`` modules: same weights, clip and prompts."""

from __future__ import annotations

import pytest
import torch

from projects.sam2_video.data.clip import collate_clips
from projects.sam2_video.losses import MultiStepMaskLoss
from projects.sam2_video.modeling import build_sam2, sam2_config
from projects.sam2_video.modeling.meta_weights import from_meta_names, load_meta_state
from projects.sam2_video.prompting import PromptPlan, PromptSimulator
from projects.sam2_video.train_model import TrainingUnroll
from tests.sam2_video.conftest import moving_squares
from tests.sam2_video.meta_reference import build_meta, randomise
from tests.sam2_video.meta_training import meta_loss, meta_steps

SIZE, FRAMES = 64, 4


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Planned(PromptSimulator):
    """Follows the plan that a test gives."""

    def __init__(self, plan: PromptPlan, **options) -> None:
        super().__init__(**options)
        self.fixed = plan

    def plan(self, visible, rng):
        return [self.fixed]


@pytest.fixture(scope="module")
def pair():
    meta = randomise(build_meta(image_size=SIZE, dropout=0.0))
    ours = build_sam2(sam2_config("tiny", image_size=SIZE, dropout=0.0))
    load_meta_state(ours, meta.state_dict(), where="reference")
    return meta.train(), ours.train()


def batch_of(*counts: int):
    """One clip for each count of objects; the last object leaves the third frame."""
    clips = [
        moving_squares(frames=FRAMES, objects=count, seed=seed, side=SIZE)
        for seed, count in enumerate(counts)
    ]
    for clip in clips:
        clip.masks[0] |= clip.masks[1]  # on small images, later squares cover the first ones
        for row in range(clip.masks.shape[1]):
            clip.masks[:, row, 2 + 3 * row : 9 + 3 * row, 5 * row : 5 * row + 20] = True
        clip.masks[2, -1] = False
    return collate_clips(clips)


CASES = {
    "mask, 1 object": ((1,), PromptPlan((0,), mask_prompts=True)),
    "masks on two frames, 3 objects": ((1, 2), PromptPlan((0, 3), mask_prompts=True)),
    "click and corrections, 3 objects": ((3,), PromptPlan((0,), correction=frozenset({0, 2}))),
    "box and click, corrections, 9 objects": (
        (4, 5),
        PromptPlan(
            (0, 1),
            box_frames=frozenset({1}),
            correction=frozenset({0, 1}),
            true_clicks=frozenset({(0, 1), (1, 0)}),
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_masks_and_gradients(pair, case):
    meta, ours = pair
    counts, plan = CASES[case]
    batch, simulator = batch_of(*counts), Planned(plan, num_correction_clicks=3)
    for model in pair:
        model.zero_grad(set_to_none=True)
    theirs = meta_steps(meta, batch, plan, simulator)
    expected = meta_loss(theirs, batch.masks)
    sum(expected.values()).backward()

    unroll = TrainingUnroll(simulator=simulator, loss=MultiStepMaskLoss())
    with torch.no_grad():
        steps = unroll.steps(ours, batch)
    losses = unroll(ours, batch)
    sum(losses.values()).backward()

    assert [step.frame for step in steps] == [step.frame for step in theirs]
    for step, other in zip(steps, theirs, strict=True):
        masks, scale = ours.full_size(step.candidates.masks), other.masks.abs().max()
        assert other.object_logits.min() > 0  # else all masks would be blank, and agree
        assert (masks - other.masks).abs().max() <= 1e-4 * scale
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4), name
    zeros = {k: torch.zeros_like(v) for k, v in meta.state_dict().items()}
    grads = {k: p.grad for k, p in meta.named_parameters() if p.grad is not None}
    compare_gradients(ours, from_meta_names(zeros | grads))


def compare_gradients(ours, expected):
    """Difference of each part's gradient, as one vector, relative to its length."""
    parts: dict[str, list[torch.Tensor]] = {}
    for name, parameter in ours.blocks.named_parameters():
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        # a ReLU that rounding flips moves the memory attention's own feed-forward net
        kind = "feed-forward" if "linear" in name else name.split(".")[0]
        pair = torch.stack([got.flatten(), expected[name].flatten()])
        parts.setdefault(f"{name.split('.')[0]} {kind}", []).append(pair)
    reached = 0
    for part, pairs in parts.items():
        got, want = torch.cat(pairs, dim=1).double()
        assert (got - want).norm() <= (2e-3 if "feed" in part else 1e-4) * want.norm(), part
        reached += bool(want.norm() > 0)
    assert reached >= 8
