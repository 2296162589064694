"""What trains is float32 beside frozen bfloat16, and both meet without autocast and with it."""

from __future__ import annotations

import pytest
import torch

from projects.llava_sam2.hf.internvl import internvl_from_folder
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from tests.llava_sam2.models.toy_parts import segment_head, toy_sam2


@pytest.fixture
def model(tokenizer):
    mllm = toy_internvl(tokenizer=tokenizer, seed=1)
    mllm.model.to(torch.bfloat16)
    return Sa2VA(
        mllm=mllm,
        grounding=toy_sam2(),
        heads={"segment": segment_head()},
        trainable=["mllm.model.lm_head", "mllm.*embed_tokens", "grounding.blocks.mask_decoder"],
        lora=dict(rank=4, alpha=8, targets=["q_proj", "mlp.*_proj"]),
    ).train()


def test_what_trains_is_float32_and_the_rest_stays(model):
    for name, parameter in model.named_parameters():
        if name.startswith("mllm."):
            wanted = torch.float32 if parameter.requires_grad else torch.bfloat16
            assert parameter.dtype == wanted, name
    assert model.mllm.language_model.norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_small_step_is_not_lost(model, make_sample, collate, precision):
    model.precision = precision
    batch = collate(make_sample(1, ["red circle", "blue square"]))
    table = model.mllm.model.get_input_embeddings().weight
    before = table.detach().clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-5)
    sum(model(batch).values()).backward()
    optimizer.step()
    touched = table.grad.abs().sum(1) > 0
    moved = (table.detach() - before).abs()[touched]
    assert moved[moved > 0].median().item() == pytest.approx(4e-5, rel=0.2)
    assert (moved > 0).float().mean() > 0.95  # bfloat16 would have kept most as they were


@torch.no_grad()
def test_it_answers_without_autocast_as_a_float32_model_nearly_does(model, make_sample, tokenizer):
    model.eval()
    sample = make_sample(1)
    ids = sample.input_ids
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    half = model.mllm(ids[None], mask, sample.pixel_values)
    assert half.dtype == torch.bfloat16
    full = toy_internvl(tokenizer=tokenizer, seed=1)(ids[None], mask, sample.pixel_values)
    assert torch.nn.functional.cosine_similarity(half.float(), full, dim=-1).min() > 0.99
    [answer] = model.mllm.generate([sample.input_ids], sample.pixel_values, max_new_tokens=3)
    assert len(answer.token_ids) <= 3


@pytest.mark.parametrize("autocast", [False, True])
def test_a_projector_that_trains_follows_a_bfloat16_tower(tokenizer, make_sample, autocast):
    mllm = toy_internvl(tokenizer=tokenizer, seed=1)
    mllm.model.to(torch.bfloat16)
    model = Sa2VA(
        mllm=mllm,
        grounding=toy_sam2(),
        heads={"segment": segment_head()},
        trainable=["mllm.*.multi_modal_projector"],
    )
    pixels = make_sample(1).pixel_values
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        visual = model.mllm.visual_features(pixels)
    full = toy_internvl(tokenizer=tokenizer, seed=1).visual_features(pixels)
    assert torch.nn.functional.cosine_similarity(visual.float(), full, dim=-1).min() > 0.99
    visual.float().sum().backward()
    assert model.mllm.model.model.multi_modal_projector.linear_1.weight.grad.any()


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), torch.nn.Module.half])
def test_rotary_tables_stay_float32_whoever_casts_the_model(tokenizer, cast):
    mllm = toy_internvl(tokenizer=tokenizer, seed=1)
    exact = mllm.language_model.rotary_emb.inv_freq.clone()
    outer = torch.nn.ModuleList([mllm])  # an engine casts from outside
    cast(outer)
    assert mllm.language_model.norm.weight.dtype != torch.float32
    for name in ("inv_freq", "original_inv_freq"):
        table = getattr(mllm.language_model.rotary_emb, name)
        assert table.dtype == torch.float32 and torch.equal(table, exact)
    assert mllm.to("meta").language_model.rotary_emb.inv_freq.is_meta  # it still moves


def test_random_weights_of_a_released_size_have_whole_rotary_tables():
    with torch.device("meta"):
        mllm = internvl_from_folder(path=None, size="1B", dtype="bfloat16")
    assert mllm.language_model.norm.weight.dtype == torch.bfloat16
    assert mllm.language_model.rotary_emb.inv_freq.dtype == torch.float32
