"""Features to visual tokens, their fusion, and what the temporal head trains."""

from __future__ import annotations

import math

import pytest
import torch

from projects.common.conversation import encode_conversation
from projects.llava_sam2.models.heads.temporal import FeatureProjector, TemporalHead, sinusoids
from projects.llava_sam2.models.toy import toy_internvl
from projects.llava_sam2.structures import GroundingSample, collate_grounding

WIDTH = 6


def make_head(positions=1.0, **changes):
    torch.manual_seed(2)
    sizes = dict(features=WIDTH, out=96, hidden=16, expanded=24, positions=positions)
    return TemporalHead(projector=FeatureProjector(**(sizes | changes)))


def make_sample(tokenizer, frames, seed=0, words="the red square ."):
    encoded = encode_conversation(
        tokenizer, [(f"{words} <image>", "it is")], "qwen_chat", image_tokens=frames,
        image_ends=False, name="x",
    )  # fmt: skip
    return GroundingSample(
        task="temporal",
        name=f"sample {seed}",
        input_ids=encoded.input_ids,
        labels=encoded.labels,
        features=torch.randn(frames, WIDTH, generator=torch.Generator().manual_seed(seed)),
    )


def test_collate_keeps_features_in_order(tokenizer):
    samples = [make_sample(tokenizer, 3, 0), make_sample(tokenizer, 5, 1)]
    batch = collate_grounding(samples)
    assert batch.features_per_sample == [3, 5] and batch.pixel_values is None
    assert torch.equal(batch.features[3:], samples[1].features)
    assert batch.to("meta").features.device.type == "meta"
    samples[0].pixel_values = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(ValueError, match="sample 0: 2 tiles and 3 features"):
        collate_grounding(samples)


def test_the_full_size_projector_has_the_recipe_widths():
    with torch.device("meta"):
        projector = FeatureProjector(features=1024, out=2048)
    shapes = [m.weight.shape for m in projector.modules() if isinstance(m, torch.nn.Linear)]
    inner = [(2048, 2048)] * 6  # three residual blocks of two
    assert shapes == [(2048, 1024), *inner, (4096, 2048), (2048, 4096)]


def test_sinusoids_against_their_formula():
    table = sinusoids(torch.tensor([0, 7, 99]), 8)
    for row, place in zip(table.tolist(), (0, 7, 99), strict=True):
        for pair in range(4):
            angle = place * math.pi * (pair + 1) / 100
            assert row[pair] == pytest.approx(math.sin(angle), abs=1e-5)
            assert row[4 + pair] == pytest.approx(math.cos(angle), abs=1e-5)


def test_positions_are_those_within_the_sample():
    head = make_head(positions=0.5).eval()
    features = torch.randn(8, WIDTH)
    together = head.visual(features, [3, 5])
    apart = [head.visual(features[:3], [3]), head.visual(features[3:], [5])]
    assert together.shape == (8, 1, 96)
    torch.testing.assert_close(together, torch.cat(apart))
    bare = make_head(positions=0.0).eval().visual(features, [3, 5])
    expected = 0.5 * sinusoids(torch.tensor([0, 1, 2, 0, 1, 2, 3, 4]), 96)
    torch.testing.assert_close(together - bare, expected[:, None])


def test_fusion_puts_each_frame_at_its_place(mllm, tokenizer):
    batch = collate_grounding([make_sample(tokenizer, 3, 0), make_sample(tokenizer, 5, 1)])
    visual = make_head().visual(batch.features, batch.features_per_sample)
    fused = mllm.embed(batch.input_ids, visual=visual)
    places = batch.input_ids == mllm.image_id
    assert places.sum(1).tolist() == [3, 5]
    assert torch.equal(fused[0][places[0]], visual[:3, 0])
    assert torch.equal(fused[1][places[1]], visual[3:, 0])
    words = mllm.model.get_input_embeddings()(batch.input_ids)
    assert torch.equal(fused[~places], words[~places])


def test_streams_that_do_not_line_up_raise_with_both_counts(mllm, tokenizer):
    head = make_head()
    batch = collate_grounding([make_sample(tokenizer, 4)])
    batch.features, batch.features_per_sample = batch.features[:3], [3]
    with pytest.raises(ValueError, match="4 <IMG_CONTEXT> tokens but 3 visual features"):
        head.loss(batch, mllm=mllm, grounding=None)
    batch.features_per_sample = [4]
    with pytest.raises(ValueError, match="3 features for samples of 4 frames"):
        head.loss(batch, mllm=mllm, grounding=None)
    with pytest.raises(ValueError, match=r"\(4, 5\), but the projector takes \[frames, 6\]"):
        head.visual(torch.zeros(4, 5), [4])
    batch = collate_grounding([make_sample(tokenizer, 4), make_sample(tokenizer, 3, 1)])
    batch.features_per_sample = [7, 0]
    with pytest.raises(ValueError, match="no features in sample 1"):
        head.loss(batch, mllm=mllm, grounding=None)


def test_the_loss_is_that_of_the_answers_whatever_the_batch(mllm, tokenizer):
    """Each token alone, from logits of unpadded samples."""
    head = make_head().eval()
    samples = [make_sample(tokenizer, 3, 0), make_sample(tokenizer, 5, 1, "the blue circle")]
    terms = []
    for sample in samples:
        visual = head.visual(sample.features, [len(sample.features)])
        hidden = mllm(sample.input_ids[None], torch.ones(1, len(sample.labels)), visual=visual)
        scores = mllm.model.lm_head(hidden[0]).log_softmax(-1)
        terms += [
            -scores[place - 1, label] for place, label in enumerate(sample.labels) if label >= 0
        ]
    loss = head.loss(collate_grounding(samples), mllm=mllm, grounding=None)
    assert len(terms) == 6
    torch.testing.assert_close(loss["loss_language"], torch.stack(terms).mean())


def test_a_gradient_reaches_the_projector_and_the_language_model(tokenizer):
    head, mllm = make_head(), toy_internvl(tokenizer=tokenizer, seed=1)
    batch = collate_grounding([make_sample(tokenizer, 4), make_sample(tokenizer, 3, 1)])
    head.loss(batch, mllm=mllm, grounding=None)["loss_language"].backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())
    assert all(p.grad.any() for p in mllm.language_model.layers.parameters())
    assert all(p.grad is None for p in mllm.model.model.vision_tower.parameters())


def test_zeroed_visual_tokens_leave_the_words_alone(mllm, tokenizer):
    head = make_head()
    batch = collate_grounding([make_sample(tokenizer, 4)])
    mllm.use_visual = False
    visual = head.visual(batch.features, [4])
    fused = mllm.embed(batch.input_ids, visual=visual)
    places = batch.input_ids == mllm.image_id
    assert not fused[places].any() and fused[~places].any(-1).all()


def test_a_width_without_pairs_is_refused():
    with pytest.raises(ValueError, match="must be even, got 7"):
        FeatureProjector(features=WIDTH, out=7)
