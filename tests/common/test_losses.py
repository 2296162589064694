"""Mask losses against numbers worked out by hand and an independent computation."""

from __future__ import annotations

import math

import pytest
import torch

from projects.common.losses import (
    dice_loss,
    mask_iou,
    point_sample,
    sample_uncertain_points,
    sigmoid_focal_loss,
)


def test_dice_by_hand():
    # probabilities 0.5, 0.75; targets 1, 0: 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1)
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    targets = torch.tensor([[1, 0]])
    assert dice_loss(logits, targets).item() == pytest.approx(1 - 2 / 3.25, abs=1e-12)
    assert dice_loss(logits, targets, eps=0.5).item() == pytest.approx(1 - 1.5 / 2.75, abs=1e-12)


def test_dice_of_an_empty_mask_predicted_empty_is_nothing():
    logits = torch.full((1, 100), -60.0)
    assert dice_loss(logits, torch.zeros(1, 100)).item() == pytest.approx(0, abs=1e-6)


def test_focal_by_hand():
    logits = torch.tensor([math.log(3.0), math.log(3.0)], dtype=torch.float64)  # p = 0.75
    targets = torch.tensor([1, 0])
    loss = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2)
    expected = [0.25 * 0.25**2 * -math.log(0.75), 0.75 * 0.75**2 * -math.log(0.25)]
    assert loss.tolist() == pytest.approx(expected, abs=1e-12)


def test_focal_without_gamma_and_alpha_is_cross_entropy():
    logits = torch.linspace(-30, 30, 13, dtype=torch.float64)
    targets = (torch.arange(13) % 2).double()
    loss = sigmoid_focal_loss(logits, targets, alpha=None, gamma=0)
    expected = [math.log1p(math.exp(-x if t else x)) for x, t in zip(logits, targets, strict=True)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-9)


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(3, 5, dtype=torch.float64).round()
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, targets), logits)
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_focal_loss(x, targets, alpha=0.25, gamma=2.0), logits
    )


def test_mask_iou_thresholds_at_zero():
    logits = torch.tensor([[1.0, 1.0, -1.0, 0.0], [-1.0] * 4])
    targets = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert mask_iou(logits, targets).tolist() == pytest.approx([1 / 3, 0.0])


def test_shapes_that_do_not_line_up_raise_with_both():
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(2, 5\)"):
        dice_loss(torch.zeros(2, 4), torch.zeros(2, 5))


def test_point_sample_reads_pixel_centres_and_interpolates():
    image = torch.arange(12, dtype=torch.float32).reshape(1, 1, 3, 4)
    centres = torch.tensor([[[2.5 / 4, 1.5 / 3], [2.0 / 4, 1.5 / 3]]])
    assert point_sample(image, centres)[0, 0].tolist() == pytest.approx([6.0, 5.5])


def test_uncertain_points_lie_where_the_mask_is_undecided():
    # decided everywhere but in a vertical band that covers a quarter of the width
    logits = torch.full((2, 1, 32, 32), 10.0)
    logits[..., 12:20] = 0
    generator = torch.Generator().manual_seed(0)
    coords = sample_uncertain_points(logits, num_points=200, generator=generator)
    assert coords.shape == (2, 200, 2)
    assert coords.min() >= 0 and coords.max() <= 1
    inside = ((coords[..., 0] - 0.5).abs() < 4.5 / 32).float().mean(1)
    assert (inside > 0.75).all()  # every uncertain one, and a quarter of the uniform ones
    uniform = coords[:, 150:, 0]
    assert (uniform < 0.3).any() and (uniform > 0.7).any()


def test_uncertain_points_come_from_the_generator_alone():
    logits = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    draws = [
        sample_uncertain_points(
            logits, num_points=16, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (3, 3, 4)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
