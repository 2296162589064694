"""Stage 1 on the toy world: clicks, boxes and masks on images and clips, from scratch on a CPU.

Most of the steps see images (a clip of T frames costs about T times as much); clips teach the
memory. Two processes with 4 samples each make the batch of 8 that the rates are tuned for.
"""

from __future__ import annotations

import os

from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch.optim import AdamW

from projects.sam2_video.data.clip import collate_clips
from projects.sam2_video.data.coco import CocoImageSource
from projects.sam2_video.data.dataset import ClipDataset
from projects.sam2_video.data.png import PaletteSource, PerObjectSource
from projects.sam2_video.data.samplers import UniformSampler
from projects.sam2_video.data.sav import SavSource
from projects.sam2_video.data.transforms import HorizontalFlip, ResizeSquare
from projects.sam2_video.evaluation.clicks import ClickBenchmark
from projects.sam2_video.evaluation.vos import VosBenchmark
from projects.sam2_video.losses import MultiStepMaskLoss
from projects.sam2_video.modeling.tracker import TrackingPolicy
from projects.sam2_video.prompting import PromptSimulator
from projects.sam2_video.toy import toy_sam2
from projects.sam2_video.train_model import Sam2VideoTraining, TrainingUnroll

data_root = os.environ.get("DATA_ROOT", "data/toy")

model = dict(
    type=Sam2VideoTraining,
    sam2=dict(type=toy_sam2),
    unroll=dict(
        type=TrainingUnroll,
        simulator=dict(
            type=PromptSimulator,
            point_prob=0.3,
            box_prob=0.4,
            max_conditioning_frames=1,
            mix_rows=True,
            max_correction_frames=1,
            num_correction_clicks=1,
        ),
        # at this size mean focal loss says little about a small object: dice weighs more
        loss=dict(type=MultiStepMaskLoss, mask_weight=20.0, dice_weight=3.0, iou_weight=0.5),
        # from scratch, blanking the masks of objects that seem absent would stop their gradient
        policy=dict(type=TrackingPolicy, hide_absent=False),
        loss_resolution="logits",
    ),
    inference_policy=dict(type=TrackingPolicy),
)

_transforms = [dict(type=ResizeSquare, size=96), dict(type=HorizontalFlip)]

_images = dict(
    type=ClipDataset,
    task="click",
    source=dict(
        type=CocoImageSource,
        annotation_file=f"{data_root}/refer_seg/refcoco/instances.json",
        image_root=f"{data_root}/coco2014/train2014",
        refs_file=f"{data_root}/refer_seg/refcoco/refs(unc).p",
        splits=["train"],
    ),
    sampler=dict(type=UniformSampler, num_frames=1, max_objects=4),
    transforms=_transforms,
)

_clip_sampler = dict(type=UniformSampler, num_frames=3, max_objects=3, reverse_time_prob=0.5)

_davis = dict(
    type=ClipDataset,
    source=dict(
        type=PaletteSource,
        image_root=f"{data_root}/DAVIS/JPEGImages",
        annotation_root=f"{data_root}/DAVIS/Annotations",
        list_file=f"{data_root}/DAVIS/ImageSets/train.txt",
    ),
    sampler=_clip_sampler,
    transforms=_transforms,
)

_sav = dict(
    type=ClipDataset,
    source=dict(
        type=SavSource,
        annotation_root=f"{data_root}/SA-V/train",
        frame_root=f"{data_root}/SA-V/train",
    ),
    sampler=_clip_sampler,
    transforms=_transforms,
)

train_dataloader = dict(
    datasets=[
        dict(dataset=_images, repeat=1.0),
        dict(dataset=_davis, repeat=3.0),
        dict(dataset=_sav, repeat=3.0),
    ],
    batch_size=4,
    num_workers=1,
    collate=collate_clips,
)
train_cfg = dict(max_steps=800)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.02),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=0.08),
    dict(type=CosineAnnealingLR, eta_min_ratio=0.05, by_epoch=False, begin=0.08, end=1.0),
]
checkpoint = dict(interval=200, keep=2)
log = dict(interval=10)

benchmarks = dict(
    davis_val=dict(
        type=VosBenchmark,
        source=dict(
            type=PaletteSource,
            image_root=f"{data_root}/DAVIS/JPEGImages",
            annotation_root=f"{data_root}/DAVIS/Annotations",
            list_file=f"{data_root}/DAVIS/ImageSets/val.txt",
        ),
    ),
    sav_val=dict(
        type=VosBenchmark,
        source=dict(
            type=PerObjectSource,
            image_root=f"{data_root}/SA-V/sav_val/JPEGImages_24fps",
            annotation_root=f"{data_root}/SA-V/sav_val/Annotations_6fps",
            list_file=f"{data_root}/SA-V/sav_val.txt",
        ),
    ),
    click_val=dict(
        type=ClickBenchmark,
        source=dict(
            type=CocoImageSource,
            annotation_file=f"{data_root}/refer_seg/refcoco/instances.json",
            image_root=f"{data_root}/coco2014/train2014",
            refs_file=f"{data_root}/refer_seg/refcoco/refs(unc).p",
            splits=["val"],
        ),
    ),
)
seed = 0
find_unused_parameters = True  # without DeepSpeed: a batch uses the parameters of its prompts
