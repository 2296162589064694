"""AdamW at 5e-6 (image encoder 3e-6, decaying by 0.9 a block), cosine to a tenth, bf16."""

from mmengine.optim import CosineAnnealingLR, OptimWrapper
from torch.optim import AdamW

from projects.sam2_video.optim import LayerDecayGroups

train_cfg = dict(max_epochs=40, phases_per_epoch=1)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=5e-6, betas=(0.9, 0.999), weight_decay=0.1),
    clip_grad=dict(max_norm=0.1),
    constructor=LayerDecayGroups,
    paramwise_cfg=dict(layer_decay=0.9, encoder_lr_mult=0.6),
)
param_scheduler = [
    dict(type=CosineAnnealingLR, eta_min_ratio=0.1, by_epoch=False, begin=0, end=1.0),
]
precision = "bf16"
checkpoint = dict(interval="epoch", keep=2)
log = dict(interval=10)
seed = 123
find_unused_parameters = True  # without DeepSpeed: a batch uses the parameters of its prompts
