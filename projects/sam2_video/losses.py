"""The multi-step mask loss of SAM 2's training (Ravi et al., 2024).

Every decode of a frame (the first prediction and each one after a correction click) is a *step*
with M candidate masks per object. Shape legend: K rows (objects over steps and frames), M
candidates, P pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from projects.common.losses import dice_loss, mask_iou, sigmoid_focal_loss


class Candidates(Protocol):
    """What a decode returns (``modeling.MaskCandidates``)."""

    masks: Tensor  # logits [O, M, h, w]
    iou: Tensor  # predicted IoU [O, M]
    object_logits: Tensor  # [O, 1]


class Step(NamedTuple):
    frame: int
    candidates: Candidates


class MultiStepMaskLoss:
    """Focal, dice, IoU and object-score losses over all steps.

    Focal and dice of a step go through the candidate with the smallest weighted sum of both; the
    predicted IoU of all candidates is supervised (L1 to the true IoU of the thresholded masks).
    These three count only where the object is present; the object score counts everywhere. Sums
    over steps and rows are divided by the number of objects, averaged over ranks.
    """

    def __init__(
        self,
        *,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
        iou_weight: float = 1.0,
        class_weight: float = 1.0,
        focal_alpha: float | None = 0.25,
        focal_gamma: float = 2.0,
        class_alpha: float | None = None,
        class_gamma: float = 0.0,
    ) -> None:
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.iou_weight = iou_weight
        self.class_weight = class_weight
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.class_alpha = class_alpha
        self.class_gamma = class_gamma

    def __call__(
        self, steps: Sequence[Step], targets: Tensor, present: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted parts ``loss_mask, loss_dice, loss_iou, loss_class`` (scalars, no total).

        Args:
            steps: in any order, each naming its frame; O rows each.
            targets: bool ``[T, O, H, W]``. Logits of another size are resized to it, bilinear.
            present: bool ``[T, O]``, whether an object is on a frame; by default, whether its
                target has a pixel (pass it where targets were shrunk).
        """
        if not steps:
            raise ValueError("the mask loss wants at least one step")
        if present is None:
            present = targets.flatten(2).any(2)
        normaliser = _mean_objects(targets.shape[1], targets.device)
        by_count: dict[int, list[Step]] = {}
        for step in steps:
            by_count.setdefault(step.candidates.masks.shape[1], []).append(step)
        groups = [self._group(group, targets, present) for group in by_count.values()]
        names = ("loss_mask", "loss_dice", "loss_iou", "loss_class")
        return {
            name: torch.stack(parts).sum() / normaliser
            for name, parts in zip(names, zip(*groups, strict=True), strict=True)
        }

    def _group(
        self, steps: list[Step], targets: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Steps with equally many candidates, as one batch: sums over their rows."""
        frames = [step.frame for step in steps]
        truth = targets[frames].flatten(0, 1)  # [K, H, W]
        counts = present[frames].flatten().float()  # [K]
        logits = torch.cat([step.candidates.masks for step in steps]).float()
        predicted_iou = torch.cat([step.candidates.iou for step in steps]).float()
        object_logits = torch.cat([step.candidates.object_logits for step in steps]).float()
        if logits.shape[-2:] != truth.shape[-2:]:
            logits = F.interpolate(logits, truth.shape[-2:], mode="bilinear", align_corners=False)
        logits = logits.flatten(2)  # [K, M, P]
        truth = truth.flatten(1).unsqueeze(1).expand_as(logits)

        focal = sigmoid_focal_loss(
            logits, truth, alpha=self.focal_alpha, gamma=self.focal_gamma
        ).mean(-1)
        dice = dice_loss(logits, truth)
        best = (self.mask_weight * focal + self.dice_weight * dice).argmin(1, keepdim=True)
        iou = (predicted_iou - mask_iou(logits, truth)).abs().mean(1)
        score = sigmoid_focal_loss(
            object_logits[:, 0], counts, alpha=self.class_alpha, gamma=self.class_gamma
        )
        return (
            self.mask_weight * (focal.gather(1, best)[:, 0] * counts).sum(),
            self.dice_weight * (dice.gather(1, best)[:, 0] * counts).sum(),
            self.iou_weight * (iou * counts).sum(),
            self.class_weight * score.sum(),
        )


def _mean_objects(count: int, device: torch.device) -> Tensor:
    """Objects per rank, so that the mean of gradients over ranks is their sum per object."""
    total = torch.tensor(float(count), device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return total.clamp(min=1)
