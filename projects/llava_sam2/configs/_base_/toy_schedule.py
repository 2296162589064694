"""AdamW, a short warm-up and a cosine; SAM 2 learns at half the rate of the language model."""

from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch.optim import AdamW

train_cfg = dict(max_steps=2200)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.02),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(custom_keys={"grounding.": dict(lr_mult=0.5)}),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=0.08),
    dict(type=CosineAnnealingLR, eta_min_ratio=0.05, by_epoch=False, begin=0.08, end=1.0),
]
checkpoint = dict(interval=200, keep=2)
log = dict(interval=10)
seed = 0
find_unused_parameters = True  # without DeepSpeed: a batch uses the parameters of its task
