"""A model that is started module by module has values like those that transformers draws."""

from __future__ import annotations

import pytest
import torch
from transformers import InternVLForConditionalGeneration

from projects.llava_sam2.hf.architectures import RELEASED, from_original
from projects.llava_sam2.hf.random_start import random_model

SMALL = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)


def small(size: str, *, tied: bool = False):
    config = from_original(RELEASED[size], where=size)
    for part in (config.text_config, config.vision_config):
        for key, value in SMALL.items():
            setattr(part, key, value)
    config.text_config.update({"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 500})
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = config.text_config.layer_types[:2]
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    return config


def tensors(model) -> dict[str, torch.Tensor]:
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


# Qwen2, Llama, and Llama beside the large vision tower with its other norms
@pytest.mark.parametrize("size", ["1B", "2B", "26B"])
def test_values_are_drawn_as_by_transformers(size):
    torch.manual_seed(0)
    expected = tensors(InternVLForConditionalGeneration(small(size)))
    found = tensors(
        random_model(InternVLForConditionalGeneration, small(size), dtype=torch.float32)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
        if value.max() == value.min() or name.endswith("inv_freq"):
            assert torch.equal(found[name], value), name
        else:
            assert found[name].std() == pytest.approx(float(value.std()), rel=0.15), name
            assert abs(found[name].mean()) < 0.2 * value.std(), name


def test_precision_ties_seed_and_the_meta_device():
    def build() -> torch.nn.Module:
        torch.manual_seed(3)
        config = small("1B", tied=True)
        return random_model(InternVLForConditionalGeneration, config, dtype=torch.bfloat16)

    first, second = build(), build()
    assert first.lm_head.weight is first.get_input_embeddings().weight
    for name, value in first.named_parameters():
        assert value.dtype == torch.bfloat16 and value.requires_grad
        assert torch.equal(value, second.get_parameter(name)), name
    assert first.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    with torch.device("meta"):
        assert all(p.is_meta and p.dtype == torch.bfloat16 for p in build().parameters())
