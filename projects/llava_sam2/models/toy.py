"""A language model of 0.4 million parameters that learns from scratch on a CPU."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
)

from projects.common.conversation import IMAGE_CONTEXT, token_id
from projects.llava_sam2.models.mllm import InternVL


def toy_internvl(
    *,
    tokenizer: PreTrainedTokenizerBase,
    template: str = "qwen_chat",
    hidden: int = 96,
    layers: int = 2,
    heads: int = 4,
    vision_hidden: int = 96,
    vision_layers: int = 2,
    image_size: int = 64,
    patch_size: int = 8,
    seed: int = 0,
) -> InternVL:
    """InternVL on Qwen2, small, with :func:`scratch_init`.

    A tile of ``image_size`` pixels becomes ``(image_size / patch_size / 2) ** 2`` tokens.
    Feed-forward layers are twice as wide as their stream.

    Args:
        tokenizer: from :func:`projects.common.conversation.load_tokenizer`; sets the vocabulary.
        seed: of the initial weights.

    Raises:
        ValueError: for an image that does not divide into an even grid of patches.
    """
    if image_size % (2 * patch_size):
        raise ValueError(
            f"image_size {image_size} must be a multiple of twice the patch_size {patch_size}"
        )
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=vision_hidden,
            num_hidden_layers=vision_layers,
            num_attention_heads=heads,
            intermediate_size=2 * vision_hidden,
            image_size=[image_size, image_size],
            patch_size=[patch_size, patch_size],
            layer_scale_init_value=1.0,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            intermediate_size=2 * hidden,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
        ),
        image_token_id=token_id(tokenizer, IMAGE_CONTEXT),
        image_seq_length=(image_size // patch_size // 2) ** 2,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config)
    scratch_init(model, seed=seed)
    return InternVL(model=model, tokenizer=tokenizer, template=template)


def scratch_init(model: InternVLForConditionalGeneration, *, seed: int) -> None:
    """Initial weights that learn without pretraining: the released 0.02 is too small for that.

    torch's own defaults for linear layers and convolutions, N(0, 0.5) for words, N(0, 0.1) for the
    positions of patches.
    """
    with torch.random.fork_rng(devices=[]):  # the model is on the CPU; touch no GPU
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.reset_parameters()
        nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
        nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.1)
