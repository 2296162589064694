"""Masks, concepts, boxes and times in one model: Sa2VA's, with the heads that these tasks need."""

from mmengine.config import read_base

from projects.common.conversation import load_shared_tokenizer
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.temporal import TemporalInputs
from projects.llava_sam2.models.heads import (
    BoxHead,
    ConceptHead,
    FeatureProjector,
    TemporalHead,
    seg_projector,
)

with read_base():
    from .sa2va import *  # noqa: F403
    from .sa2va import _ask, _folder, _inputs  # noqa: F401

_ask["frames"].update(num=6)
_time_inputs = dict(
    type=TemporalInputs,
    tokenizer=dict(type=load_shared_tokenizer, path=_folder),
    template="qwen_chat",
    frames=dict(type=UniformFrames, num=100),
    fps=10.0,
)
model["heads"].update(  # noqa: F405
    concept=dict(
        type=ConceptHead,
        projector=dict(type=seg_projector, hidden=2048, out=256),
        rows_per_chunk=16,
    ),
    box=dict(type=BoxHead),
    temporal=dict(
        type=TemporalHead,
        projector=dict(
            type=FeatureProjector, features=1024, hidden=2048, expanded=4096, blocks=3, out=2048
        ),
    ),
)
# as in SeC: the concepts learn to be what a frozen memory attention understands
model["trainable"].append("!heads.concept.token_attn")  # noqa: F405
