"""A toy grounded model with LoRA and every head, as a config tree and built."""

from __future__ import annotations

import torch

from projects.common.conversation import load_tokenizer
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.evaluation.refer_image import ReferImageBenchmark
from projects.llava_sam2.evaluation.responders import AskModel
from projects.llava_sam2.models.heads import (
    CategoryHead,
    ChatHead,
    FeatureProjector,
    SegmentHead,
    TemporalHead,
    TrackHead,
    seg_projector,
)
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.sam2_video.losses import MultiStepMaskLoss
from projects.sam2_video.modeling import TrackingPolicy, build_sam2, toy_config
from projects.sam2_video.modeling.init import apply_scratch_init
from projects.sam2_video.prompting import PromptSimulator
from projects.sam2_video.train_model import TrainingUnroll

LORA = dict(rank=3, alpha=6, dropout=0.05, targets=["*_proj"])
TRAINABLE = ["grounding.blocks.mask_decoder", "heads", "mllm.*embed_tokens*", "mllm.*lm_head*"]


def toy_grounding():
    grounding = build_sam2(toy_config(image_size=96))
    apply_scratch_init(grounding, seed=13)
    return grounding


def no_rows():
    return []


def tree(tokenizer_folder, *, lora=True):
    """The config as ``plain`` gives it."""
    tokenizer = dict(type=load_tokenizer, path=str(tokenizer_folder))
    inputs = dict(
        type=GroundingInputs,
        tokenizer=tokenizer,
        template="qwen_chat",
        tiles=dict(type=SingleTile, size=32),
        tokens_per_tile=4,
        grounding_size=96,
        max_length=256,
    )
    templates = dict(
        type=Templates, questions=["segment {expression} ."], answers=["sure it is [SEG] ."]
    )
    ask = dict(
        type=AskModel,
        inputs=inputs,
        templates=templates,
        frames=dict(type=UniformFrames, num=2),
        max_new_tokens=12,
    )
    unroll = dict(
        type=TrainingUnroll,
        simulator=dict(type=PromptSimulator),
        loss=dict(type=MultiStepMaskLoss),
    )
    projector = dict(type=FeatureProjector, features=8, out=32, hidden=16, expanded=24, blocks=2)
    model = dict(
        type=Sa2VA,
        mllm=dict(
            type=toy_internvl,
            tokenizer=tokenizer,
            hidden=32,
            vision_hidden=32,
            image_size=32,
            heads=2,
        ),
        grounding=dict(type=toy_grounding),
        heads=dict(
            segment=dict(
                type=SegmentHead,
                projector=dict(type=seg_projector, hidden=32, out=64),
                num_points=None,
            ),
            chat=dict(type=ChatHead),
            temporal=dict(type=TemporalHead, projector=projector),
            track=dict(type=TrackHead, unroll=unroll),
            category=dict(type=CategoryHead, features=64, categories=3),
        ),
        trainable=TRAINABLE,
        lora=LORA if lora else None,
        propagation_decoder="original",
        inference_policy=TrackingPolicy.meta_predictor(),
    )
    benchmark = dict(type=ReferImageBenchmark, rows=dict(type=no_rows), respond=ask)
    return dict(model=model, benchmarks=dict(toy=benchmark), seed=4)


@torch.no_grad()
def train(model, seed=0):
    """Move what trains, as training would, so that nothing is as it was at the start."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            scale = 0.1 * float(parameter.std()) if parameter.numel() > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.add_(noise * (scale or 0.2))
    # a random model that points often
    model.mllm.model.lm_head.weight[model.mllm.seg_id] *= 4
    return model
