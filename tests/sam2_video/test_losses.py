"""The multi-step loss against numbers worked out by hand and a plain re-derivation."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from projects.sam2_video.losses import MultiStepMaskLoss, Step


def candidates(masks, iou, object_logits):
    return SimpleNamespace(masks=masks, iou=iou, object_logits=object_logits)


def random_case(seed=0, objects=3, frames=2):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(frames, objects, 16, 16, generator=generator) > 0.5
    targets[1, 2] = False  # absent on the second frame
    steps = [
        Step(
            frame,
            candidates(
                torch.randn(objects, count, 8, 8, generator=generator, dtype=torch.float32) * 3,
                torch.rand(objects, count, generator=generator),
                torch.randn(objects, 1, generator=generator),
            ),
        )
        for frame, count in ((0, 3), (0, 1), (0, 1), (1, 3))
    ]
    return steps, targets


def plain_loss(steps, targets, weights=(20, 1, 1, 1)):
    """One step, object and candidate at a time, in the words of the paper's appendix."""
    total = dict.fromkeys(("loss_mask", "loss_dice", "loss_iou", "loss_class"), 0.0)
    objects = targets.shape[1]
    for frame, step, _ in steps:
        full = F.interpolate(step.masks, targets.shape[-2:], mode="bilinear", align_corners=False)
        for row in range(objects):
            truth = targets[frame, row].double()
            present = bool(truth.any())
            score = step.object_logits[row, 0].double()
            total["loss_class"] += math.log1p(math.exp(-score if present else score))
            if not present:
                continue
            options = []
            for logit, iou in zip(full[row].double(), step.iou[row].double(), strict=True):
                p = logit.sigmoid()
                p_true = torch.where(truth > 0, p, 1 - p)
                alpha = torch.where(truth > 0, 0.25, 0.75)
                focal = (-alpha * (1 - p_true) ** 2 * p_true.log()).mean().item()
                dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
                hit = ((logit > 0) & (truth > 0)).sum()
                either = ((logit > 0) | (truth > 0)).sum()
                options.append((focal, dice.item(), abs(iou.item() - (hit / either).item())))
            focal, dice, _ = min(options, key=lambda o: weights[0] * o[0] + weights[1] * o[1])
            total["loss_mask"] += focal
            total["loss_dice"] += dice
            total["loss_iou"] += sum(o[2] for o in options) / len(options)
    return {
        name: value * weight / objects
        for (name, value), weight in zip(total.items(), weights, strict=True)
    }


def test_against_the_definition():
    for seed in range(3):
        steps, targets = random_case(seed)
        losses = MultiStepMaskLoss()(steps, targets)
        expected = plain_loss(steps, targets)
        assert set(losses) == set(expected)
        for name, value in expected.items():
            assert losses[name].item() == pytest.approx(value, rel=1e-5), name


def test_weights_scale_their_parts_and_choose_the_candidate():
    steps, targets = random_case(5)
    weights = dict(mask_weight=0.5, dice_weight=8.0, iou_weight=3.0, class_weight=2.0)
    losses = MultiStepMaskLoss(**weights)(steps, targets)
    expected = plain_loss(steps, targets, tuple(weights.values()))
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5), name


def test_by_hand():
    # one object of 2 of 4 pixels, predicted with p = 0.5 everywhere
    targets = torch.tensor([[[[True, True], [False, False]]]])
    step = Step(0, candidates(torch.zeros(1, 1, 2, 2), torch.tensor([[0.25]]), torch.zeros(1, 1)))
    losses = MultiStepMaskLoss()([step], targets)
    # focal: mean of (0.25, 0.75) * 0.25 * ln 2; dice: 1 - (2 * 1 + 1) / (2 + 2 + 1)
    assert losses["loss_mask"].item() == pytest.approx(20 * 0.5 * 0.25 * math.log(2))
    assert losses["loss_dice"].item() == pytest.approx(1 - 3 / 5)
    assert losses["loss_iou"].item() == pytest.approx(0.25)  # nothing is above 0: the true IoU is 0
    assert losses["loss_class"].item() == pytest.approx(math.log(2))


def test_gradient_goes_through_the_best_candidate_only():
    targets = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    targets[..., :2] = True
    masks = torch.where(targets[0], 2.0, -2.0).repeat(1, 3, 1, 1)
    masks[:, 0] *= -1
    masks[:, 2] *= 0.5
    masks.requires_grad_()
    iou = torch.full((1, 3), 0.5, requires_grad=True)
    step = Step(0, candidates(masks, iou, torch.ones(1, 1)))
    losses = MultiStepMaskLoss()([step], targets)
    (losses["loss_mask"] + losses["loss_dice"] + losses["loss_iou"]).backward()
    assert masks.grad[0].abs().amax((1, 2)).gt(0).tolist() == [False, True, False]
    # all three are supervised: true IoUs are 0, 1, 1
    assert iou.grad.sign().tolist() == [[1, -1, -1]]


def test_an_absent_object_trains_the_score_alone():
    targets = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    parts = [torch.randn(1, 3, 4, 4), torch.rand(1, 3), torch.tensor([[2.0]])]
    parts = [part.requires_grad_() for part in parts]
    losses = MultiStepMaskLoss()([Step(0, candidates(*parts))], targets)
    sum(losses.values()).backward()
    assert [losses[name].item() for name in ("loss_mask", "loss_dice", "loss_iou")] == [0, 0, 0]
    assert parts[0].grad.abs().max() == 0 and parts[1].grad.abs().max() == 0
    assert parts[2].grad.item() == pytest.approx(torch.tensor(2.0).sigmoid().item())


def test_presence_can_be_said_where_targets_were_shrunk():
    steps, targets = random_case(2)
    present = targets.flatten(2).any(2)
    shrunk = targets.clone()
    shrunk[0, 0] = False  # the object is there, but its pixels were lost in resizing
    lost = MultiStepMaskLoss()(steps, shrunk)
    kept = MultiStepMaskLoss()(steps, shrunk, present)
    logits = torch.cat([step.candidates.object_logits[0] for step in steps if step.frame == 0])
    difference = (F.softplus(-logits) - F.softplus(logits)).sum().item() / 3
    assert (kept["loss_class"] - lost["loss_class"]).item() == pytest.approx(difference, rel=1e-4)


def test_no_total_beside_the_parts():
    steps, targets = random_case()
    losses = MultiStepMaskLoss()(steps, targets)
    assert sorted(losses) == ["loss_class", "loss_dice", "loss_iou", "loss_mask"]
    with pytest.raises(ValueError, match="at least one step"):
        MultiStepMaskLoss()([], targets)
