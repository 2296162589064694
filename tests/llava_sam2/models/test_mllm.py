"""The language model adapter against transformers' own forward and independent computations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from projects.common.conversation import load_tokenizer, prompt_ids
from projects.common.freezing import keep_frozen_in_eval, set_trainable
from projects.llava_sam2.models.mllm import IMAGE_MEAN, IMAGE_STD, InternVL
from projects.llava_sam2.models.toy import toy_internvl
from tools.bench.common import saved_tensors


def reference_hidden(mllm, sample):
    """Last hidden states [L, D] of one unpadded sample through transformers' own forward."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    pixels = None
    if sample.pixel_values is not None:
        pixels = (sample.pixel_values / 255.0 - mean) / std
    outputs = mllm.model(
        input_ids=sample.input_ids[None], pixel_values=pixels, output_hidden_states=True
    )
    return outputs.hidden_states[-1][0], outputs.logits[0]


def test_toy_sizes_and_seed(mllm, tokenizer):
    assert mllm.hidden_size == 96 and mllm.tile_size == 64 and mllm.image_tokens_per_tile == 16
    assert mllm.model.lm_head.weight.shape == (len(tokenizer), 96)
    assert 0.3e6 < sum(p.numel() for p in mllm.parameters()) < 0.5e6
    same, other = (
        toy_internvl(tokenizer=tokenizer, seed=1),
        toy_internvl(tokenizer=tokenizer, seed=2),
    )
    pairs = list(zip(mllm.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
    words = mllm.model.get_input_embeddings().weight
    assert 0.45 < words.std() < 0.55


def test_hidden_states_are_transformers_last_layer_whatever_the_padding(mllm, make_sample, collate):
    samples = [
        make_sample(1, ["red circle", "blue square"], frames=2),
        make_sample(2),
        make_sample(3, (), task="segment"),
    ]
    batch = collate(*samples)
    hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
    for row, sample in enumerate(samples):
        expected, _ = reference_hidden(mllm, sample)
        got = hidden[row, : len(sample.input_ids)]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tiles, features", [(1, 16), (3, 48), (0, 0)])
def test_fusion_mismatch_raises_both_counts(mllm, make_sample, tiles, features):
    sample = make_sample(1, frames=2)  # 32 image tokens
    pixels = sample.pixel_values[:1].repeat(tiles, 1, 1, 1) if tiles else None
    with pytest.raises(ValueError, match=rf"^32 <IMG_CONTEXT> tokens but {features} visual"):
        mllm.embed(sample.input_ids[None], pixels)


def test_tiles_of_a_wrong_size_are_told(mllm):
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\).*\[N, 3, 64, 64\]"):
        mllm.visual_features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_images_enter_in_the_order_of_their_tokens(mllm, make_sample):
    sample = make_sample(1, frames=2)
    embedded = mllm.embed(sample.input_ids[None], sample.pixel_values)[0]
    visual = mllm.visual_features(sample.pixel_values)
    places = sample.input_ids == mllm.image_id
    torch.testing.assert_close(embedded[places], visual.flatten(0, 1))
    words = mllm.model.get_input_embeddings()(sample.input_ids)
    torch.testing.assert_close(embedded[~places], words[~places])


def test_without_visual_the_image_does_not_matter_and_no_word_changes(mllm, make_sample):
    sample = make_sample(1)
    ids, other = sample.input_ids[None], 255 - sample.pixel_values
    assert not torch.allclose(mllm.embed(ids, sample.pixel_values), mllm.embed(ids, other))
    mllm.use_visual = False
    blind = mllm.embed(ids, sample.pixel_values)
    torch.testing.assert_close(blind, mllm.embed(ids, other))
    places = sample.input_ids == mllm.image_id
    assert not blind[0, places].any() and blind[0, ~places].any(1).all()


def test_language_loss_is_full_cross_entropy_over_supervised_tokens(mllm, make_sample, collate):
    samples = [make_sample(1, ["red circle", "blue square"]), make_sample(2)]
    batch = collate(*samples)
    hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
    loss = mllm.language_loss(hidden, batch.labels)
    total, count = 0.0, 0
    for sample in samples:
        _, logits = reference_hidden(mllm, sample)
        log_p = logits.double().log_softmax(-1)
        for position, label in enumerate(sample.labels.tolist()[1:]):
            if label != -100:
                total -= log_p[position, label].item()
                count += 1
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_logits_exist_at_supervised_positions_only(mllm, make_sample, collate):
    batch = collate(make_sample(1), make_sample(2))
    shapes = []
    mllm.model.lm_head.register_forward_hook(lambda m, args, out: shapes.append(out.shape))
    hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
    assert shapes == []
    mllm.language_loss(hidden, batch.labels)
    assert [shape[0] for shape in shapes] == [(batch.labels != -100).sum()]


def test_without_labels_the_loss_is_zero_with_a_path_to_every_parameter(mllm, make_sample, collate):
    batch = collate(make_sample(1))
    hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
    loss = mllm.language_loss(hidden, torch.full_like(batch.labels, -100))
    loss.backward()
    assert loss.item() == 0
    for name, parameter in mllm.named_parameters():
        if "mask_token" not in name:
            assert parameter.grad is not None and not parameter.grad.any(), name


def test_gradient_checkpointing_changes_no_gradient(tokenizer, make_sample, collate):
    batch = collate(make_sample(1))
    gradients = []
    for checkpointing in (False, True):
        plain = toy_internvl(tokenizer=tokenizer, seed=1)
        mllm = InternVL(
            model=plain.model,
            tokenizer=tokenizer,
            template="qwen_chat",
            gradient_checkpointing=checkpointing,
        ).train()
        hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
        mllm.language_loss(hidden, batch.labels).backward()
        gradients.append([p.grad for p in mllm.parameters()])
    assert plain.model.is_activation_checkpointing
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("trains", ["multi_modal_projector", "lm_head"])
def test_frozen_layers_are_recomputed_where_something_before_them_trains(
    tokenizer, make_sample, collate, trains
):
    batch = collate(make_sample(1, ["red circle"] * 4))
    held, gradients = [], []
    for checkpointing in (False, True):
        plain = toy_internvl(tokenizer=tokenizer, seed=1, layers=6)
        mllm = InternVL(
            model=plain.model,
            tokenizer=tokenizer,
            template="qwen_chat",
            gradient_checkpointing=checkpointing,
        )
        set_trainable(mllm, [f"*{trains}*"])
        mllm.train()
        keep_frozen_in_eval(mllm)
        assert not any(part.training for part in mllm.language_model.layers[0].self_attn.modules())
        with saved_tensors(ignore=list(mllm.parameters())) as saved:
            hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
            loss = mllm.language_loss(hidden, batch.labels)
        loss.backward()
        held.append(saved.value)
        gradients.append([p.grad for p in mllm.parameters() if p.requires_grad])
    for a, b in zip(*gradients, strict=True):
        assert a.any()
        torch.testing.assert_close(a, b)
    if trains == "lm_head":
        assert held[0] == held[1]  # no layer holds anything: there is nothing to recompute
    else:
        assert held[1] < 0.5 * held[0]


def test_embeddings_grow_to_the_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    longer = load_tokenizer(tmp_path, special_tokens=["[SEG]", "<frame_0>", "<frame_1>"])
    assert len(longer) == len(tokenizer) + 2
    model = toy_internvl(tokenizer=tokenizer, seed=1).model
    old = [model.get_input_embeddings().weight.clone(), model.lm_head.weight.clone()]
    mllm = InternVL(model=model, tokenizer=longer, template="qwen_chat")
    new = [mllm.model.get_input_embeddings().weight, mllm.model.lm_head.weight]
    for before, after in zip(old, new, strict=True):
        assert after.shape[0] == len(longer) and isinstance(after, nn.Parameter)
        torch.testing.assert_close(after[: len(before)], before)
        torch.testing.assert_close(after[len(before) :], before.mean(0).expand(2, -1))
    # a vocabulary that is padded beyond the tokenizer stays as it is
    assert InternVL(
        model=model, tokenizer=tokenizer, template="qwen_chat"
    ).model.lm_head.weight.shape[0] == len(longer)


def test_mistakes_are_told_at_construction(tokenizer, mllm):
    with pytest.raises(ValueError, match="no chat template 'qwen'"):
        InternVL(model=mllm.model, tokenizer=tokenizer, template="qwen")
    with pytest.raises(ValueError, match="image_size 72 must be a multiple"):
        toy_internvl(tokenizer=tokenizer, image_size=72)


def continue_alone(mllm, prompt, pixels, count):
    """Greedy decoding by full forwards without a cache: the slow truth."""
    ids = prompt
    for _ in range(count):
        mask = torch.ones(1, len(ids), dtype=torch.bool)
        hidden = mllm(ids[None], mask, pixels)[0]
        ids = torch.cat([ids, mllm.model.lm_head(hidden[-1]).argmax()[None]])
    return ids


@pytest.fixture
def prompts(tokenizer):
    questions = ["<image> segment the red circle .", "<image> <image> segment the blue square ."]
    questions += ["segment it ."]
    return [
        prompt_ids(tokenizer, q, "qwen_chat", image_tokens=16 if "<image>" in q else 0)
        for q in questions
    ]


@pytest.fixture
def tiles():
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=draw)


@torch.no_grad()
def test_generate_is_greedy_decoding_and_reads_seg_as_training_does(mllm, prompts, tiles):
    mllm.model.lm_head.weight[mllm.seg_id] *= 3  # so that [SEG] is among the likely tokens
    mllm.stop_words = ()
    answers = mllm.generate(prompts, tiles, max_new_tokens=12)
    found = 0
    for prompt, pixels, answer in zip(prompts, (tiles[:1], tiles[1:], None), answers, strict=True):
        whole = continue_alone(mllm, prompt, pixels, 12)
        assert answer.token_ids.tolist() == whole[len(prompt) :].tolist()
        mask = torch.ones(1, len(whole), dtype=torch.bool)
        hidden = mllm(whole[None], mask, pixels)[0]
        expected = hidden[whole == mllm.seg_id]
        found += len(expected)
        torch.testing.assert_close(answer.seg_hidden, expected, rtol=1e-4, atol=1e-4)
        assert not answer.stopped
        assert answer.text.count("[SEG]") == len(expected)
    assert found > 2


def script(mllm, words):
    """Make the model say these tokens: the logits follow a script, the hidden states are real."""
    state = {"step": 0}

    def say(module, args, logits):
        logits = torch.zeros_like(logits)
        for row, line in enumerate(words):
            token = line[min(state["step"], len(line) - 1)]
            logits[row, mllm.tokenizer.convert_tokens_to_ids(token)] = 9.0
        state["step"] += 1
        return logits

    return mllm.model.lm_head.register_forward_hook(say)


def test_generate_stops_each_answer_at_its_stop_word(mllm, prompts, tiles):
    lines = ["sure it is [SEG] . <|im_end|> [SEG]".split(), "<|im_end|> it".split(), ["[SEG]"]]
    script(mllm, lines)
    first, second, third = mllm.generate(prompts, tiles, max_new_tokens=7)
    assert (first.text, second.text) == ("sure it is [SEG] .", "")
    assert first.stopped and second.stopped and not third.stopped
    assert [len(a.seg_hidden) for a in (first, second, third)] == [1, 0, 7]
    assert [len(a.token_ids) for a in (first, second, third)] == [5, 0, 7]


@torch.no_grad()
def test_a_seg_at_the_very_end_has_its_hidden_state(mllm, prompts, tiles):
    script(mllm, [["it", "[SEG]"]])
    (answer,) = mllm.generate(prompts[:1], tiles[:1], max_new_tokens=2)
    whole = torch.cat([prompts[0], answer.token_ids])
    mask = torch.ones(1, len(whole), dtype=torch.bool)
    expected = mllm(whole[None], mask, tiles[:1])[0, -1:]
    assert answer.text == "it [SEG]"
    torch.testing.assert_close(answer.seg_hidden, expected, rtol=1e-4, atol=1e-5)


def test_a_stop_word_that_the_tokenizer_does_not_know_is_found_as_text(mllm, prompts, tiles):
    mllm.stop_words = ("circle .",)
    script(mllm, ["it is [SEG] the red circle . it it".split()])
    (answer,) = mllm.generate(prompts[:1], tiles[:1], max_new_tokens=9)
    assert answer.text == "it is [SEG] the red" and answer.stopped
    assert mllm.tokenizer.decode(answer.token_ids).split() == "it is [SEG] the red".split()


def test_shared_visual_features_give_the_same_answer(mllm, prompts, tiles):
    mllm.stop_words = ()
    twice = mllm.generate([prompts[0]] * 2, tiles[:1].repeat(2, 1, 1, 1), max_new_tokens=5)
    visual = mllm.visual_features(tiles[:1]).expand(2, -1, -1)
    shared = mllm.generate([prompts[0]] * 2, visual=visual, max_new_tokens=5)
    assert [a.token_ids.tolist() for a in twice] == [a.token_ids.tolist() for a in shared]


def test_sampling_follows_its_generator_and_the_distribution(mllm, prompts):
    def sample(seed, **options):
        draw = torch.Generator().manual_seed(seed)
        answers = mllm.generate(
            [prompts[2]] * 400, max_new_tokens=1, temperature=1.0, generator=draw, **options
        )
        return [a.token_ids.tolist() for a in answers]

    mllm.stop_words = ()
    assert sample(0) == sample(0) != sample(1)
    mask = torch.ones(1, len(prompts[2]), dtype=torch.bool)
    with torch.no_grad():
        hidden = mllm(prompts[2][None], mask)[0, -1]
        probabilities = mllm.model.lm_head(hidden).softmax(-1)
    counts = torch.bincount(torch.tensor(sum(sample(0), [])), minlength=len(probabilities))
    assert (counts / 400 - probabilities).abs().max() < 0.08
    greedy = int(probabilities.argmax())
    assert sample(0, top_p=1e-6) == [[greedy]] * 400
    with pytest.raises(ValueError, match="sampling needs a generator"):
        mllm.generate(prompts[2:], max_new_tokens=1, temperature=1.0)


def test_with_a_generator_each_a_sampled_answer_does_not_depend_on_the_batch(mllm, prompts, tiles):
    mllm.stop_words = ()
    options = dict(max_new_tokens=6, temperature=1.0)

    def seeds(*numbers):
        return [torch.Generator().manual_seed(number) for number in numbers]

    together = mllm.generate(prompts, tiles, generator=seeds(1, 2, 3), **options)
    parts = (tiles[:1], tiles[1:], None)
    for number, (prompt, pixels) in enumerate(zip(prompts, parts, strict=True), 1):
        [alone] = mllm.generate([prompt], pixels, generator=seeds(number), **options)
        assert alone.token_ids.tolist() == together[number - 1].token_ids.tolist()
    assert len({tuple(a.token_ids.tolist()) for a in together}) == 3
    with pytest.raises(ValueError, match="2 generators for 3 prompts"):
        mllm.generate(prompts, tiles, generator=seeds(1, 2), **options)


def test_greedy_answers_of_a_batch_are_those_of_one_at_a_time(mllm, prompts, tiles):
    together = mllm.generate(prompts, tiles, max_new_tokens=8)
    for prompt, pixels, answer in zip(prompts, (tiles[:1], tiles[1:], None), together, strict=True):
        [alone] = mllm.generate([prompt], pixels, max_new_tokens=8)
        assert alone.token_ids.tolist() == answer.token_ids.tolist()
        torch.testing.assert_close(alone.seg_hidden, answer.seg_hidden, rtol=1e-4, atol=1e-4)
