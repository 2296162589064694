"""One pass: batch 2 on each GPU, 4 accumulated, AdamW, 5% warm-up, cosine to zero, bf16."""

from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch.optim import AdamW

from projects.llava_sam2.datasets.collate import collate

train_dataloader = dict(datasets=[], batch_size=2, num_workers=4, collate=collate)
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    accumulative_counts=4,
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-5, by_epoch=False, begin=0, end=0.05),
    dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=False, begin=0.05, end=1.0),
]
precision = "bf16"
checkpoint = dict(interval=1000, keep=2)
log = dict(interval=10)
seed = 0
find_unused_parameters = True  # without DeepSpeed: a batch uses the parameters of its task
