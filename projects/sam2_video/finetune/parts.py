"""Which parts of a SAM 2 train, under the names of the paper's figure."""

from __future__ import annotations

from collections.abc import Sequence

from projects.common.freezing import LORA_PATTERNS, add_lora, set_trainable
from projects.sam2_video.modeling.blocks import Sam2

# part of the model: patterns of its parameters (projects.common.freezing)
MODULES: dict[str, tuple[str, ...]] = {
    "all": ("*",),
    "image_encoder": ("blocks.vision_encoder",),
    "image_encoder.trunk": ("blocks.vision_encoder.backbone",),
    "image_encoder.neck": ("blocks.vision_encoder.neck",),
    "prompt_encoder": ("blocks.prompt_encoder",),
    "mask_decoder": ("blocks.mask_decoder",),
    "memory_encoder": ("blocks.memory_encoder", "blocks.occlusion_spatial_embedding_parameter"),
    "memory_attention": (
        "blocks.memory_attention",
        "blocks.memory_temporal_positional_encoding",
        "blocks.no_memory_embedding",
    ),
    "object_pointer": (
        "blocks.object_pointer_proj",
        "blocks.no_object_pointer",
        "blocks.temporal_positional_encoding_projection_layer",
        "blocks.mask_downsample",
    ),
}
# read by nobody: SAM 2 adds no position code to the embedding that stands in for a memory
_NEVER_READ = "!blocks.no_memory_positional_encoding"
# only in SAM 2.1
_IF_THERE = ("occlusion_spatial_embedding_parameter", "temporal_positional_encoding_projection")

LORA_TARGETS: dict[str, tuple[str, ...]] = {
    "image_encoder": ("vision_encoder.backbone.blocks.*.attn.qkv",),
    "mask_decoder": ("mask_decoder.transformer.*_proj",),
    "memory_attention": ("memory_attention.layers.*_proj",),
    "object_pointer": ("object_pointer_proj.*",),
}


def adapted_sam2(
    *,
    sam2: Sam2,
    trainable: Sequence[str],
    lora_rank: int = 0,
    lora_alpha: int = 16,
    lora_dropout: float = 0.0,
    lora_modules: Sequence[str] = (),
    checkpointing: Sequence[str] = (),
    compile_parts: bool = False,
) -> Sam2:
    """``sam2`` with everything frozen but the named parts, and LoRA matrices beside others.

    Args:
        sam2: is changed in place.
        trainable: keys of ``MODULES``.
        lora_rank: 0: no LoRA.
        lora_modules: keys of ``LORA_TARGETS``; the layers themselves train only where
            ``trainable`` names their part too.
        checkpointing: see ``Sam2.set_checkpointing``.
        compile_parts: torch.compile, see ``Sam2.compile_parts``.

    Raises:
        ValueError: a part that is not known, or nothing that trains.
    """
    unknown = sorted(set(trainable) - set(MODULES)) + sorted(set(lora_modules) - set(LORA_TARGETS))
    if unknown:
        raise ValueError(f"unknown parts of SAM 2: {unknown}; known are {sorted(MODULES)}")
    if lora_rank:
        targets = [pattern for name in lora_modules for pattern in LORA_TARGETS[name]]
        add_lora(sam2, rank=lora_rank, alpha=lora_alpha, targets=targets, dropout=lora_dropout)
    patterns = [pattern for name in trainable for pattern in _patterns(sam2, name)]
    patterns += LORA_PATTERNS if lora_rank else ()
    if not patterns:
        raise ValueError("nothing would train: name parts under trainable, or use LoRA")
    set_trainable(sam2, patterns)
    sam2.set_checkpointing(checkpointing)
    if compile_parts:
        sam2.compile_parts()
    return sam2


def _patterns(sam2: Sam2, name: str) -> list[str]:
    if name == "all":
        return ["*", _NEVER_READ]
    names = [parameter for parameter, _ in sam2.named_parameters()]
    return [
        pattern
        for pattern in MODULES[name]
        # what only 2.1 has may be missing; anything else that is missing is an error
        if not any(part in pattern for part in _IF_THERE) or any(pattern in n for n in names)
    ]
