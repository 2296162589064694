"""A training step on the modules of PyPI's ``sam2``, which has no training code of its own.

Written from the description of SAM 2's training: conditioning frames first, correction clicks with
the previous logits, corrected frames remembered as conditioning ones, the loss over all steps with
masks at full resolution. Plans and the randomness of prompts come from our simulator, clicks from
the reference's own predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from projects.sam2_video.data.clip import ClipBatch
from projects.sam2_video.points import RowRandom
from projects.sam2_video.prompting import PromptPlan, PromptSimulator


@dataclass
class MetaStep:
    """One decode: candidates at full resolution [B, M, S, S], predicted IoU, object logits."""

    frame: int
    masks: Tensor
    iou: Tensor
    object_logits: Tensor


def meta_steps(
    model: SAM2Base, batch: ClipBatch, plan: PromptPlan, simulator: PromptSimulator
) -> list[MetaStep]:
    """Every decode of a batch under one plan for all rows."""
    masks, num_frames = batch.masks, batch.num_frames
    random = RowRandom.of_clips(batch.seeds, batch.objects_per_video(), masks.device)
    mean = torch.tensor([0.485, 0.456, 0.406], device=masks.device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=masks.device).view(3, 1, 1)
    images = (batch.frames.flatten(0, 1).float() / 255 - mean) / std
    backbone = model.forward_image(images)
    _, features, positions, sizes = model._prepare_backbone_features(backbone)
    outputs: dict = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    steps = []
    later = [frame for frame in range(num_frames) if frame not in plan.conditioning]
    for frame in [*plan.conditioning, *later]:
        rows = batch.object_to_video * num_frames + frame
        found = [level[:, rows] for level in features]
        starts = frame in plan.conditioning
        points, mask = None, None
        if starts and plan.mask_prompts:
            mask = masks[frame][:, None].float()
        elif starts:
            points = _points(
                simulator.first_points(masks[frame], box=frame in plan.box_frames, random=random)
            )
        out, heads, high_res, embed = model._track_step(
            frame, starts, found, [p[:, rows] for p in positions], sizes, points, mask, outputs,
            num_frames, False, None,
        )  # fmt: skip
        if mask is None:
            steps.append(MetaStep(frame, heads[1], heads[2], heads[6]))
        if frame in plan.correction:
            for number in range(simulator.num_correction_clicks):
                low, high = heads[3], heads[4]
                click = simulator.correction_click(
                    masks[frame],
                    high[:, 0] > 0,
                    from_truth=(frame, number) in plan.true_clicks,
                    random=random,
                )
                points = _points(click, points)
                heads = model._forward_sam_heads(
                    backbone_features=embed,
                    point_inputs=points,
                    mask_inputs=low,
                    high_res_features=high_res,
                    multimask_output=model._use_multimask(starts, points),
                )
                steps.append(MetaStep(frame, heads[1], heads[2], heads[6]))
        out["pred_masks"], out["pred_masks_high_res"], out["obj_ptr"] = heads[3:6]
        model._encode_memory_in_output(found, sizes, points, True, heads[4], heads[6], out)
        kept = "cond_frame_outputs" if starts or frame in plan.correction else None
        outputs[kept or "non_cond_frame_outputs"][frame] = out
    return steps


def _points(new: tuple[Tensor, Tensor], old: dict | None = None) -> dict[str, Tensor]:
    points, labels = new[0], new[1].to(torch.int32)
    if old is not None:
        points = torch.cat([old["point_coords"], points], dim=1)
        labels = torch.cat([old["point_labels"], labels], dim=1)
    return {"point_coords": points, "point_labels": labels}


def meta_loss(
    steps: list[MetaStep], masks: Tensor, *, focal_weight: float = 20.0
) -> dict[str, Tensor]:
    """The loss of SAM 2's training: focal, dice, IoU and object score, per object."""
    totals = {name: 0.0 for name in ("loss_mask", "loss_dice", "loss_iou", "loss_class")}
    for step in steps:
        truth = masks[step.frame][:, None].float().expand_as(step.masks)
        there = masks[step.frame].flatten(1).any(1).float()
        probability = step.masks.sigmoid()
        cross = F.binary_cross_entropy_with_logits(step.masks, truth, reduction="none")
        right = probability * truth + (1 - probability) * (1 - truth)
        alpha = 0.25 * truth + 0.75 * (1 - truth)
        focal = (alpha * cross * (1 - right) ** 2).flatten(2).mean(2)  # [B, M]
        p, t = probability.flatten(2), truth.flatten(2)
        dice = 1 - (2 * (p * t).sum(2) + 1) / (p.sum(2) + t.sum(2) + 1)
        best = (focal_weight * focal + dice).argmin(1, keepdim=True)
        hard, true = step.masks.flatten(2) > 0, t > 0
        true_iou = (hard & true).sum(2) / (hard | true).sum(2).float().clamp(min=1)
        totals["loss_mask"] += (focal.gather(1, best)[:, 0] * there).sum() * focal_weight
        totals["loss_dice"] += (dice.gather(1, best)[:, 0] * there).sum()
        totals["loss_iou"] += ((step.iou - true_iou).abs().mean(1) * there).sum()
        totals["loss_class"] += F.binary_cross_entropy_with_logits(
            step.object_logits[:, 0], there, reduction="sum"
        )
    return {name: total / masks.shape[1] for name, total in totals.items()}
