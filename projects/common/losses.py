"""Mask losses as pure functions: each takes logits and targets and returns unreduced values.

How values are reduced (over pixels, candidates, objects, ranks) is the business of the loss that
calls them. Focal loss: Lin et al., 2017. Dice: Milletari et al., 2016, with the +1 smoothing of
SAM 2's training. Uncertainty sampling: Kirillov et al., PointRend, 2020.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dice_loss(logits: Tensor, targets: Tensor, *, eps: float = 1.0) -> Tensor:
    """``1 - (2 * sum(p * t) + eps) / (sum(p) + sum(t) + eps)`` along the last dimension.

    Args:
        logits: ``[..., P]`` mask logits at P pixels or points.
        targets: ``[..., P]`` in 0..1, bool or float.

    Returns:
        ``[...]`` in 0..1. An empty target that is predicted empty costs (almost) nothing.
    """
    _require_same_shape(logits, targets)
    probabilities = logits.sigmoid()
    targets = targets.to(probabilities.dtype)
    intersection = (probabilities * targets).sum(-1)
    total = probabilities.sum(-1) + targets.sum(-1)
    return 1 - (2 * intersection + eps) / (total + eps)


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float | None, gamma: float
) -> Tensor:
    """Elementwise focal loss; ``alpha`` weighs positives, ``None`` leaves classes unweighted.

    With ``gamma = 0`` and ``alpha = None`` it is binary cross entropy. Shapes are equal, any number
    of dimensions; the result has the same shape.
    """
    _require_same_shape(logits, targets)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"focal loss: alpha must be None or in 0..1, got {alpha}")
    targets = targets.to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if gamma:
        probabilities = logits.sigmoid()
        missed = probabilities + targets - 2 * probabilities * targets  # 1 - p of the true class
        loss = loss * missed**gamma
    if alpha is not None:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss


@torch.no_grad()
def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of the thresholded masks (logit > 0) along the last dimension; empty with empty is 0.

    Args:
        logits: ``[..., P]``.
        targets: ``[..., P]``, bool or float (> 0.5 is foreground).

    Returns:
        float32 ``[...]``.
    """
    _require_same_shape(logits, targets)
    predicted = logits > 0
    targets = targets if targets.dtype == torch.bool else targets > 0.5
    intersection = (predicted & targets).sum(-1)
    union = (predicted | targets).sum(-1)
    return intersection.float() / union.clamp(min=1)


def point_sample(input: Tensor, coords: Tensor) -> Tensor:
    """Bilinear values at points; outside of the image the value is 0.

    Args:
        input: ``[N, C, h, w]``.
        coords: ``[N, P, 2]`` as (x, y) in 0..1 of width and height (pixel edges, not centres).

    Returns:
        ``[N, C, P]``.
    """
    grid = 2 * coords.unsqueeze(2) - 1
    return F.grid_sample(input, grid.to(input.dtype), align_corners=False).squeeze(3)


@torch.no_grad()
def sample_uncertain_points(
    logits: Tensor,
    *,
    num_points: int,
    oversample: float = 3.0,
    importance: float = 0.75,
    generator: torch.Generator | None = None,
) -> Tensor:
    """PointRend's training points: most where the mask is undecided, the rest uniform.

    Args:
        logits: ``[N, 1, h, w]``.
        num_points: P.
        oversample: candidates per chosen point (>= 1).
        importance: share of the points that are taken by uncertainty, 0..1.
        generator: on the device of ``logits``.

    Returns:
        ``[N, P, 2]`` as (x, y) in 0..1.
    """
    if oversample < 1 or not 0 <= importance <= 1:
        raise ValueError(
            f"point sampling wants oversample >= 1 and importance in 0..1, "
            f"got {oversample} and {importance}"
        )
    rows, device = logits.shape[0], logits.device
    candidates = torch.rand(
        rows, int(num_points * oversample), 2, device=device, generator=generator
    )
    uncertainty = -point_sample(logits.float(), candidates)[:, 0].abs()
    num_uncertain = int(num_points * importance)
    chosen = uncertainty.topk(num_uncertain, dim=1).indices
    uncertain = candidates.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 2))
    uniform = torch.rand(rows, num_points - num_uncertain, 2, device=device, generator=generator)
    return torch.cat([uncertain, uniform], dim=1)


def _require_same_shape(logits: Tensor, targets: Tensor) -> None:
    if logits.shape != targets.shape:
        raise ValueError(
            f"logits and targets do not line up: {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
