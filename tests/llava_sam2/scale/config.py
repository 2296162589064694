from mmengine.optim import OptimWrapper
from torch.optim import SGD

from projects.llava_sam2.models.heads import (
    FeatureProjector,
    SegmentHead,
    TemporalHead,
    seg_projector,
)
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.structures import collate_grounding
from tests.llava_sam2.scale.parts import Samples, grounding, mllm

model = dict(
    type=Sa2VA,
    mllm=dict(type=mllm),
    grounding=dict(type=grounding),
    heads=dict(
        segment=dict(
            type=SegmentHead,
            projector=dict(type=seg_projector, hidden=32, out=64),
            num_points=None,
            rows_per_chunk=1,
            frames_per_chunk=1,
        ),
        temporal=dict(
            type=TemporalHead,
            projector=dict(
                type=FeatureProjector, features=6, out=32, hidden=16, expanded=24, blocks=1
            ),
        ),
    ),
    lora=dict(rank=4, alpha=8, targets=["self_attn.*_proj"]),
    trainable=[
        "mllm.model.model.language_model.embed_tokens",
        "mllm.model.lm_head",
        "grounding.blocks.mask_decoder",
        "heads",
    ],
    propagation_decoder="original",
)
train_dataloader = dict(
    datasets=[
        dict(dataset=dict(type=Samples, kind="image", length=5)),
        dict(dataset=dict(type=Samples, kind="video", length=4)),
        dict(dataset=dict(type=Samples, kind="words", length=3)),
        dict(dataset=dict(type=Samples, kind="features", length=6)),
        dict(dataset=dict(type=Samples, kind="seen", length=3)),
        dict(dataset=dict(type=Samples, kind="empty", length=3)),
    ],
    batch_size=1,
    collate=collate_grounding,
)
train_cfg = dict(max_steps=6)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.05))
checkpoint = dict(interval=6)
log = dict(interval=1)
seed = 269
