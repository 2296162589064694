"""SAM 2.1 base+ with the prompts and losses of the published fine-tuning recipe.

Leaves set ``size`` and ``checkpoint`` together: ``model["sam2"].update(size=..., checkpoint=...)``.
"""

from mmengine.config import read_base

from projects.sam2_video.losses import MultiStepMaskLoss
from projects.sam2_video.modeling.tracker import TrackingPolicy
from projects.sam2_video.pretrained import pretrained_sam2
from projects.sam2_video.prompting import PromptSimulator
from projects.sam2_video.train_model import Sam2VideoTraining, TrainingUnroll

with read_base():
    from .memory import _recompute, _unroll

model = dict(
    type=Sam2VideoTraining,
    sam2=dict(
        type=pretrained_sam2,
        size="base_plus",
        checkpoint="pretrained_models/sam2.1_hiera_base_plus.pt",
        image_size=1024,
        num_maskmem=7,
        drop_path=0.1,
        **_recompute,
    ),
    unroll=dict(
        type=TrainingUnroll,
        simulator=dict(
            type=PromptSimulator,
            point_prob=0.5,
            box_prob=0.5,
            max_conditioning_frames=2,
            max_correction_frames=2,
            num_correction_clicks=7,
            gt_click_prob=0.1,
        ),
        loss=dict(
            type=MultiStepMaskLoss,
            mask_weight=20.0,
            dice_weight=1.0,
            iou_weight=1.0,
            class_weight=1.0,
            focal_alpha=0.25,
            focal_gamma=2.0,
            class_alpha=None,
            class_gamma=0.0,
        ),
        policy=dict(type=TrackingPolicy),
        **_unroll,
    ),
)
