"""The concept head against plain torch, its losses row by row, and what trains."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from projects.llava_sam2.models.heads import ConceptHead, attend_concept, seg_projector
from projects.sam2_video.losses import MultiStepMaskLoss, Step
from projects.sam2_video.modeling import build_sam2, sam2_config
from tests.llava_sam2.models import concept_parts
from tests.llava_sam2.models.concept_parts import STAGE2, concept_model


@pytest.fixture
def build(tokenizer):
    return partial(concept_model, tokenizer)


@pytest.fixture
def concept_sample(make_sample):
    return partial(make_sample, task="concept")


@pytest.fixture(scope="module")
def full_width():
    """SAM 2 tiny at 128 px: 256 channels, so that a concept is 4 tokens of 64."""
    torch.manual_seed(0)
    sam2 = build_sam2(sam2_config("tiny", image_size=128)).eval()
    head = ConceptHead(projector=seg_projector(hidden=32, out=256))
    head.start_from(sam2)
    with torch.no_grad():  # apart from SAM 2's own, with biases and norms that are not trivial
        for parameter in head.token_attn.parameters():
            parameter.normal_(std=0.08)
    return sam2, head.eval()


def test_tokens_are_read_as_transformers_reads_object_pointers(full_width):
    sam2, head = full_width
    embed, concepts = torch.randn(3, 256, 8, 8), torch.randn(3, 256)
    with torch.no_grad():
        found = attend_concept(head.token_attn, sam2, embed, concepts)
        tokens = torch.stack([concepts[:, 64 * i : 64 * (i + 1)] for i in range(4)])  # [4, R, 64]
        (expected,) = head.token_attn(
            embed.flatten(2).permute(2, 0, 1),
            tokens,
            sam2.frame_position.expand(-1, 3, -1),
            torch.zeros_like(tokens),
            4,
        )
    assert found.std() > 0.1
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-4)


def test_one_layer_by_hand(full_width):
    """Softmax and rotation written out: the 4 tokens are keys and values, and are not rotated."""
    sam2, head = full_width
    module = copy.deepcopy(head.token_attn)
    module.layers = module.layers[:1]
    (layer,) = module.layers
    cos, sin = (table[0] for table in module.rotary_emb(torch.zeros(1), module.position_ids))
    embed, concept = torch.randn(1, 256, 8, 8), torch.randn(256)
    with torch.no_grad():
        frame = embed[0].flatten(1).T + 0.1 * sam2.frame_position[:, 0]
        norm = layer.layer_norm1(frame)
        own = layer.self_attn
        keys = _turned(own.k_proj(norm), cos, sin)
        frame = frame + _attention(own, norm, keys, own.v_proj(norm), cos, sin)
        norm, tokens = layer.layer_norm2(frame), concept.view(4, 64)
        cross = layer.cross_attn_image
        keys, values = cross.k_proj(tokens), cross.v_proj(tokens)
        frame = frame + _attention(cross, norm, keys, values, cos, sin)
        frame = frame + layer.linear2(F.relu(layer.linear1(layer.layer_norm3(frame))))
        found = attend_concept(module, sam2, embed, concept[None])
    torch.testing.assert_close(
        found[0].flatten(1).T, module.layer_norm(frame), rtol=1e-4, atol=1e-4
    )


def _attention(module, frame, keys, values, cos, sin):
    """One head of 256."""
    query = _turned(module.q_proj(frame), cos, sin)
    return module.o_proj(torch.softmax(query @ keys.T / 256**0.5, dim=-1) @ values)


def _turned(values, cos, sin):
    """RoPE: pairs (x0, x1) plus a quarter turn of them."""
    pairs = values.unflatten(-1, (-1, 2))
    quarter = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    return values * cos + quarter * sin


def test_it_starts_as_a_copy_of_memory_attention(build):
    model = build()
    own, copied = model.grounding.blocks.memory_attention, model.heads["concept"].token_attn
    assert copied is not own
    for key, value in own.state_dict().items():
        assert torch.equal(copied.state_dict()[key], value)
    assert not {*map(id, own.parameters())} & {*map(id, copied.parameters())}
    given = copy.deepcopy(own)
    assert build(token_attn=given).heads["concept"].token_attn is given


def test_losses_are_those_of_rows_one_at_a_time(build, concept_sample, collate):
    """Two samples of unequal numbers of expressions against SAM 2's verbs called by hand."""
    model = build().eval()
    head, sam2 = model.heads["concept"], model.grounding
    samples = [concept_sample(1, ["red circle", "blue square"]), concept_sample(2)]
    samples[1].masks[:] = False  # the target frame may not show the object any more
    losses = model.loss(collate(*samples))
    sums, rows = dict.fromkeys(("mask", "dice", "iou", "class"), 0.0), 0
    for sample in samples:
        batch = collate(sample)
        hidden = model.mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
        concepts = head.text_hidden_fcs(hidden[batch.input_ids == model.mllm.seg_id])
        for concept, target in zip(concepts, sample.masks, strict=True):
            features = sam2.encode_frames(sample.grounding_frames)
            embed = attend_concept(head.token_attn, sam2, features.embed, concept[None])
            found = sam2.decode_masks(features.with_embed(embed), None)
            parts = MultiStepMaskLoss()([Step(0, found)], target[None])
            rows += 1
            for name in sums:
                sums[name] = sums[name] + parts[f"loss_{name}"]
    for name, total in sums.items():
        torch.testing.assert_close(
            losses[f"loss_concept_{name}"], total / rows, rtol=1e-4, atol=1e-6
        )
    assert losses["loss_language"] > 0


def test_candidates_by_sams_own_rule_or_as_told(full_width):
    sam2, head = full_width
    features = sam2.encode_frames(torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8))
    embed = head.condition(sam2, features, torch.randn(1, 256))
    for multimask, count in ((None, 3), (False, 1)):  # released models: three
        found = sam2.decode_masks(features.with_embed(embed), None, multimask=multimask)
        assert found.masks.shape[1] == count


def test_chunks_change_nothing(build, concept_sample, collate):
    batch = collate(concept_sample(1, ["red circle", "blue square", "red square"]))
    gradients = []
    for size in (None, 2, 1):
        model = build(rows_per_chunk=size).train()
        sum(model.loss(batch).values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for other in gradients[1:]:
        assert other.keys() == gradients[0].keys()
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-3, atol=2e-6, msg=name)


def test_stage_2_trains_words_and_projector_through_a_frozen_sam2(build, concept_sample, collate):
    model = build(trainable=STAGE2).train()
    model.heads["concept"].language_weight = 0.0
    assert not model.heads["concept"].token_attn.training
    sum(model.loss(collate(concept_sample(1))).values()).backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert "heads.concept.text_hidden_fcs.0.weight" in reached
    assert "mllm.model.model.vision_tower.embeddings.patch_embeddings.projection.weight" in reached
    assert all(n.startswith(("mllm.", "heads.concept.text_hidden_fcs")) for n in reached)
    trained = build(trainable=[*STAGE2, "heads.concept.token_attn"]).train()
    sum(trained.loss(collate(concept_sample(1))).values()).backward()
    attention = dict(trained.heads["concept"].token_attn.named_parameters())
    assert all(p.grad is not None and p.grad.any() for p in attention.values())
    assert all(p.grad is None for p in trained.grounding.parameters())


def test_a_batch_without_masks_has_no_mask_loss_and_the_same_path(build, concept_sample, collate):
    model = build(trainable=STAGE2).train()
    model.touch_all = False
    losses = model.loss(collate(concept_sample(1, masks=False)))
    assert [v.item() for k, v in losses.items() if "concept" in k] == [0.0] * 4
    sum(v for k, v in losses.items() if "concept" in k).backward()
    projector = model.heads["concept"].text_hidden_fcs
    assert all(p.grad is not None and not p.grad.any() for p in projector.parameters())


def test_an_absent_object_is_hidden_as_in_sam2s_training(build, concept_sample, collate):
    """Masks of rows whose score says absent have no gradient, their score has."""
    model = build(hide_absent=True).train()
    bias = model.grounding.blocks.mask_decoder.pred_obj_score_head.proj_out.bias
    bias.data.fill_(-9.0)
    losses = model.loss(collate(concept_sample(1)))
    assert losses["loss_concept_class"] > 5  # the object is there
    losses["loss_concept_mask"].backward()
    assert not model.heads["concept"].text_hidden_fcs[0].weight.grad.any()


def test_seg_tokens_and_masks_must_line_up(build, concept_sample, collate):
    sample = concept_sample(4)
    sample.masks = sample.masks.repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match=r"sample 4: 1 \[SEG\] tokens but 2 expressions"):
        build().loss(collate(sample))


def test_two_processes_take_the_step_of_one(tokenizer, concept_sample, tmp_path):
    """Unequal numbers of rows in chunks of one, and samples without masks on the second rank."""
    samples = [
        concept_sample(1, ["red circle", "blue square", "red square"]),
        concept_sample(2),
        concept_sample(3, (), masks=False),
        concept_sample(5, masks=False),
    ]
    expected = concept_parts.step(tokenizer, samples)
    found = concept_parts.run(tokenizer, [samples[:2], samples[2:]], tmp_path)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-6, msg=name)
