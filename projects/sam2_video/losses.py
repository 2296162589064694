"""Losses of masks over the steps of a training unroll.

Every decode of a frame (the first prediction and each one after a correction click) is a *step*
with M candidate masks per object. ``MultiStepMaskLoss`` is that of SAM 2's training (Ravi et al.,
2024), ``SimpleMaskLoss`` a plain one for light fine-tuning. Both are called alike. Steps are judged
one at a time, and masks at the resolution of the targets are made anew in backward, so that none
of them is kept. Shape legend: B rows (objects) of a step, M candidates, P pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from projects.common.losses import dice_loss, mask_iou, sigmoid_focal_loss


class Candidates(Protocol):
    """What a decode returns (``modeling.MaskCandidates``)."""

    masks: Tensor  # logits [B, M, h, w]
    iou: Tensor  # predicted IoU [B, M]
    object_logits: Tensor  # [B, 1]


class Step(NamedTuple):
    frame: int
    candidates: Candidates
    rows: tuple[int, ...] | None = None  # the objects that it is of; None: all


class MaskLoss(Protocol):
    """What the unroll asks of a loss."""

    def sums(
        self, steps: Sequence[Step], targets: Tensor, present: Tensor
    ) -> dict[str, Tensor]: ...

    def average(self, sums: dict[str, Tensor], objects: int) -> dict[str, Tensor]: ...


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
            steps: in any order, each naming its frame and rows.
            targets: bool ``[T, O, H, W]``. Logits of another size are resized to it, bilinear.
            present: bool ``[T, O]``, whether an object is on a frame; by default, whether its
                target has a pixel (pass it where targets were shrunk).

        Raises:
            ValueError: no step.
        """
        if not steps:
            raise ValueError("the mask loss wants at least one step")
        if present is None:
            present = targets.flatten(2).any(2)
        return self.average(self.sums(steps, targets, present), targets.shape[1])

    def sums(self, steps: Sequence[Step], targets: Tensor, present: Tensor) -> dict[str, Tensor]:
        """The parts, not yet divided; those of disjoint steps may be added up."""
        names = ("loss_mask", "loss_dice", "loss_iou", "loss_class")
        judged = [self._step(step, targets, present) for step in steps]
        return _add_up(names, judged, targets.device)

    def average(self, sums: dict[str, Tensor], objects: int) -> dict[str, Tensor]:
        """Sums of a batch of so many objects, per object of all ranks."""
        normaliser = _mean_over_ranks(objects, next(iter(sums.values())).device)
        return {name: total / normaliser for name, total in sums.items()}

    def _step(self, step: Step, targets: Tensor, present: Tensor) -> tuple[Tensor, ...]:
        truth, counts = _of_rows(targets[step.frame], step), _of_rows(present[step.frame], step)
        counts = counts.float()  # [B]
        found = step.candidates
        best, true_iou = self._compare(found.masks, truth)
        masks = found.masks.gather(1, best[:, None, None, None].expand_as(found.masks[:, :1]))
        focal, dice = _recomputed(self._focal_and_dice, masks, truth)  # [B, 1]
        iou = (found.iou.float() - true_iou).abs().mean(1)
        score = sigmoid_focal_loss(
            found.object_logits[:, 0].float(),
            counts,
            alpha=self.class_alpha,
            gamma=self.class_gamma,
        )
        return (
            self.mask_weight * (focal[:, 0] * counts).sum(),
            self.dice_weight * (dice[:, 0] * counts).sum(),
            self.iou_weight * (iou * counts).sum(),
            self.class_weight * score.sum(),
        )

    @torch.no_grad()
    def _compare(self, masks: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """The candidate that fits best ``[B]``, and the true IoU of all ``[B, M]``."""
        logits = _at_size_of(truth, masks).flatten(2)
        true_iou = mask_iou(logits, truth.flatten(1).unsqueeze(1).expand_as(logits))
        if masks.shape[1] == 1:
            return torch.zeros(len(masks), dtype=torch.long, device=masks.device), true_iou
        focal, dice = self._judge(logits, truth)
        return (self.mask_weight * focal + self.dice_weight * dice).argmin(1), true_iou

    def _focal_and_dice(self, masks: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return self._judge(_at_size_of(truth, masks).flatten(2), truth)

    def _judge(self, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Focal and dice ``[B, M]`` of logits ``[B, M, P]``."""
        truth = truth.flatten(1).unsqueeze(1).expand_as(logits)
        focal = sigmoid_focal_loss(logits, truth, alpha=self.focal_alpha, gamma=self.focal_gamma)
        return focal.mean(-1), dice_loss(logits, truth)


class SimpleMaskLoss:
    """Binary cross entropy, dice, IoU and temporal consistency of the masks that are answered.

    Judged is the candidate with the highest predicted IoU, which is the one that tracking returns.
    With p the mask's probabilities, y the truth and t the frame, per row and step:

        loss_mask   mean of BCE(p, y) over pixels
        loss_dice   1 - (2 sum(p y) + 1) / (sum p + sum y + 1), where the object is present
        loss_iou    |predicted IoU - true IoU of the thresholded mask|, where it is present
        loss_time   mean of (p[t+1] - p[t])^2 over pixels with y[t+1] = y[t], last steps of
                    neighbouring frames

    Each is a mean over the rows of all steps (of all pairs of frames), over all ranks, times its
    weight. The object score is not trained by it.
    """

    def __init__(
        self,
        *,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
        iou_weight: float = 1.0,
        time_weight: float = 0.1,
    ) -> None:
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.iou_weight = iou_weight
        self.time_weight = time_weight

    def __call__(
        self, steps: Sequence[Step], targets: Tensor, present: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted parts ``loss_mask, loss_dice, loss_iou, loss_time``, arguments as
        :class:`MultiStepMaskLoss`."""
        if not steps:
            raise ValueError("the mask loss wants at least one step")
        if present is None:
            present = targets.flatten(2).any(2)
        return self.average(self.sums(steps, targets, present), targets.shape[1])

    def sums(self, steps: Sequence[Step], targets: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Sums, beside the numbers of rows and of pairs that they are over."""
        names = ("loss_mask", "loss_dice", "loss_iou")
        sums = _add_up(names, [self._step(s, targets, present) for s in steps], targets.device)
        pairs = [self._pair(a, b, targets) for a, b in _neighbours(steps)]
        sums |= _add_up(("loss_time",), pairs, targets.device)
        for name, judged in (("rows", steps), ("pairs", [pair[0] for pair in _neighbours(steps)])):
            count = sum(len(step.candidates.masks) for step in judged)
            sums[name] = torch.tensor(float(count), device=targets.device)
        return sums

    def average(self, sums: dict[str, Tensor], objects: int) -> dict[str, Tensor]:
        rows, pairs = (
            _mean_over_ranks(sums[name], sums[name].device) for name in ("rows", "pairs")
        )
        parts = {name: sums[name] / rows for name in ("loss_mask", "loss_dice", "loss_iou")}
        return parts | {"loss_time": sums["loss_time"] / pairs}

    def _step(self, step: Step, targets: Tensor, present: Tensor) -> tuple[Tensor, ...]:
        truth, counts = _of_rows(targets[step.frame], step), _of_rows(present[step.frame], step)
        predicted_iou = step.candidates.iou.float().amax(1)
        masks = _answer(step)
        cross, dice, true_iou = _recomputed(self._judge, masks, truth)
        iou = (predicted_iou - true_iou).abs()
        return (
            self.mask_weight * cross.sum(),
            self.dice_weight * (dice * counts).sum(),
            self.iou_weight * (iou * counts).sum(),
        )

    @staticmethod
    def _judge(masks: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cross entropy, dice and true IoU, ``[B]`` each."""
        logits, truth = _at_size_of(truth, masks).flatten(1), truth.flatten(1)
        cross = F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
        return cross.mean(1), dice_loss(logits, truth), mask_iou(logits, truth)

    def _pair(self, before: Step, after: Step, targets: Tensor) -> tuple[Tensor]:
        truths = [_of_rows(targets[step.frame], step) for step in (before, after)]
        change = _recomputed(_change, _answer(before), _answer(after), *truths)
        return (self.time_weight * change.sum(),)


def _change(before: Tensor, after: Tensor, truth_before: Tensor, truth_after: Tensor) -> Tensor:
    """Mean squared change of probabilities ``[B]`` where the truth stays the same."""
    moved = _at_size_of(truth_after, after).sigmoid() - _at_size_of(truth_before, before).sigmoid()
    same = (truth_before == truth_after).flatten(1)
    return (moved.flatten(1).square() * same).sum(1) / same.sum(1).clamp(min=1)


def _neighbours(steps: Iterable[Step]) -> list[tuple[Step, Step]]:
    """Last steps of neighbouring frames, of the same rows."""
    last = {(step.rows, step.frame): step for step in steps}
    return [
        (step, last[rows, frame + 1])
        for (rows, frame), step in last.items()
        if (rows, frame + 1) in last
    ]


def _answer(step: Step) -> Tensor:
    """Logits ``[B, 1, h, w]`` of the candidate with the highest predicted IoU."""
    masks = step.candidates.masks
    best = step.candidates.iou.argmax(1)
    return masks.gather(1, best[:, None, None, None].expand_as(masks[:, :1]))


def _of_rows(values: Tensor, step: Step) -> Tensor:
    """``[O, ...]`` to the ``[B, ...]`` of a step."""
    return values if step.rows is None else values[list(step.rows)]


def _at_size_of(truth: Tensor, masks: Tensor) -> Tensor:
    """float32 logits ``[B, M, H, W]`` for a truth of ``[B, H, W]``."""
    masks = masks.float()
    if masks.shape[-2:] == truth.shape[-2:]:
        return masks
    return F.interpolate(masks, truth.shape[-2:], mode="bilinear", align_corners=False)


def _recomputed(function: Callable, *tensors: Tensor):
    """``function(*tensors)``; what it computes on the way is made anew in backward."""
    return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)


def _add_up(
    names: Sequence[str], judged: Sequence[Sequence[Tensor]], device: torch.device
) -> dict[str, Tensor]:
    """Sums per name; zero without a step."""
    if not judged:
        return {name: torch.zeros((), device=device) for name in names}
    parts = zip(*judged, strict=True)
    return {name: torch.stack(part).sum() for name, part in zip(names, parts, strict=True)}


def _mean_over_ranks(count: float | Tensor, device: torch.device) -> Tensor:
    """A count's mean over ranks, at least 1: the mean of gradients over ranks then is right."""
    total = torch.as_tensor(count, dtype=torch.float32, device=device).clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return total.clamp(min=1)
