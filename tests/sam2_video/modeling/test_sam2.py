"""Rows, prompts, gradients and precision of the toy-sized model."""

from __future__ import annotations

import copy

import pytest
import torch

from projects.sam2_video.modeling import (
    MixedPrompt,
    Prompt,
    Tracker,
    TrackingPolicy,
    apply_scratch_init,
    build_sam2,
    sam2_config,
    toy_config,
)
from projects.sam2_video.modeling.meta_weights import load_meta_state
from tests.sam2_video.meta_reference import build_meta, encode_meta, randomise

SIZE = 96
LEARNING = TrackingPolicy(hide_absent=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    model = build_sam2(toy_config())
    apply_scratch_init(model, seed=0)
    return model.eval()


@pytest.fixture(scope="module")
def frames():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (8, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def features(model, frames):
    with torch.no_grad():
        return model.encode_frames(frames)


def square_masks(rows: int) -> torch.Tensor:
    masks = torch.zeros(rows, 1, SIZE, SIZE, dtype=torch.bool)
    for row in range(rows):
        masks[row, :, 10 + 5 * row : 50, 20:70] = True
    return masks


def clicks(*rows: list[tuple[float, float, int]]) -> Prompt:
    """A prompt of rows with different numbers of clicks, filled up with padding."""
    longest = max(len(row) for row in rows)
    points, labels = torch.zeros(len(rows), longest, 2), torch.full((len(rows), longest), -1)
    for number, row in enumerate(rows):
        for place, (x, y, label) in enumerate(row):
            points[number, place] = torch.tensor([x, y])
            labels[number, place] = label
    return Prompt(points=points, labels=labels)


RAGGED = [[(20, 30, 1)], [(50, 60, 1), (9, 9, 0), (70, 20, 1)], [], [(5, 80, 1)]]


# ---- prompts --------------------------------------------------------------------------------


@torch.no_grad()
def test_rows_with_different_numbers_of_clicks_answer_as_if_alone(model, features):
    index = torch.tensor([0, 0, 1, 2])
    together = model.decode_masks(features.rows(index), clicks(*RAGGED))
    for row, asked in enumerate(RAGGED):
        alone = clicks(asked) if asked else None
        single = model.decode_masks(features.rows(index[row : row + 1]), alone)
        torch.testing.assert_close(together.masks[row : row + 1], single.masks, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.tokens[row : row + 1], single.tokens, rtol=0, atol=1e-5)
    padded = Prompt(points=torch.zeros(1, 3, 2), labels=torch.tensor([[1, -1, 1]]))
    with pytest.raises(ValueError, match="after the real ones"):
        model.decode_masks(features.rows(torch.tensor([0])), padded)


@torch.no_grad()
def test_language_joins_an_empty_point(model, features):
    rows = features.rows(torch.tensor([0, 1]))
    tokens = torch.randn(2, 1, model.hidden, generator=torch.Generator().manual_seed(1))
    sparse, _ = model._encode_prompt(2, None, None, tokens, None)
    empty, _ = model._encode_prompt(2, None, None, None, None)
    assert empty.shape == (2, 1, 2, model.hidden)  # the empty point and SAM's own padding
    assert torch.equal(sparse[:, :, :2], empty) and torch.equal(sparse[:, 0, 2:], tokens)
    asked = model.decode_masks(rows, Prompt(tokens=tokens))
    swapped = model.decode_masks(rows, Prompt(tokens=tokens.flip(0)))
    assert (asked.masks - swapped.masks).abs().max() > 1e-3


@torch.no_grad()
def test_mixed_kinds_answer_as_if_alone(model, features):
    tracker = Tracker(model, policy=LEARNING)
    index, size = torch.tensor([0, 0, 1, 1]), 4
    memory = tracker.new_memory()
    masks = square_masks(size)
    tracker.step(features.rows(index), 0, memory, prompt=Prompt(mask=masks))
    tokens = torch.randn(1, 2, model.hidden, generator=torch.Generator().manual_seed(2))
    parts = {2: Prompt(mask=masks[:1]), 0: clicks([(30, 40, 1)]), 3: Prompt(tokens=tokens)}
    prompt = MixedPrompt(size, [(torch.tensor([row]), part) for row, part in parts.items()])
    later = features.rows(index + 2)
    whole = memory.rows(torch.arange(size))
    together = tracker.step(later, 1, whole, prompt=prompt)
    for row in range(size):
        one = torch.tensor([row])
        alone_memory = memory.rows(one)
        alone = tracker.step(
            later.rows(one), 1, alone_memory, prompt=parts.get(row), conditioning=True
        )
        for got, expected in (
            (together.masks[one], alone.masks),
            (together.pointer[one], alone.pointer),
            (together.object_logits[one], alone.object_logits),
            (whole.conditioning[1].memory[one], alone_memory.conditioning[1].memory),
        ):
            torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_order_of_rows_in_a_mixed_prompt_does_not_matter(model, features):
    tracker = Tracker(model, policy=LEARNING)
    rows, masks = features.rows(torch.tensor([0, 1])), square_masks(2)
    swapped = torch.tensor([1, 0])
    for prompt in (Prompt(mask=masks), clicks([(20, 30, 1)], [(60, 60, 1)])):
        mixed = MixedPrompt(2, [(swapped, prompt.rows(swapped))])
        memories = [tracker.new_memory(), tracker.new_memory()]
        plain = tracker.step(rows, 0, memories[0], prompt=prompt)
        other = tracker.step(rows, 0, memories[1], prompt=mixed)
        assert torch.equal(plain.masks, other.masks) and torch.equal(plain.pointer, other.pointer)
        left, right = (memory.conditioning[0].memory for memory in memories)
        assert torch.equal(left, right) and not torch.equal(left[0], left[1])


@torch.no_grad()
def test_groups_with_one_and_three_candidates_merge_without_changing_min_or_mean(features):
    config = toy_config()
    config.multimask_output_in_sam = True
    model = build_sam2(config)
    apply_scratch_init(model, seed=0)
    model.eval()
    rows = features.rows(torch.tensor([0, 1]))
    merged = model.decode_masks(rows, clicks([(20, 30, 1)], [(20, 30, 1), (40, 50, 0)]))
    assert merged.masks.shape[1] == 3
    single = model.decode_masks(
        features.rows(torch.tensor([1])), clicks([(20, 30, 1), (40, 50, 0)])
    )
    assert single.masks.shape[1] == 1
    torch.testing.assert_close(
        merged.masks[1], single.masks[0].expand(3, -1, -1), atol=1e-5, rtol=0
    )
    assert not torch.equal(merged.masks[0, 0], merged.masks[0, 1])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "empty prompt"),
        ({"points": torch.zeros(1, 1, 2)}, "together"),
        ({"points": torch.zeros(2, 1, 2), "labels": torch.ones(2, 2)}, "do not line up"),
        ({"tokens": torch.zeros(2, 1, 64), "previous": torch.zeros(3, 1, 4, 4)}, "'tokens': 2"),
        ({"mask": torch.zeros(1, 1, 4, 4), "tokens": torch.zeros(1, 1, 64)}, "the output itself"),
    ],
)
def test_prompts_that_make_no_sense(parts, message):
    with pytest.raises(ValueError, match=message):
        Prompt(**parts)


def test_streams_that_do_not_line_up(model, features):
    with pytest.raises(ValueError, match="prompt of 2 rows for features of 3 rows"):
        model.decode_masks(features.rows(torch.tensor([0, 1, 2])), clicks([(1, 1, 1)], []))
    with pytest.raises(ValueError, match=r"\[N, 3, 96, 96\]"):
        model.encode_frames(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\[B, 1, 96, 96\]"):
        model.decode_masks(features.rows(torch.tensor([0])), Prompt(mask=torch.ones(1, 1, 48, 48)))
    with pytest.raises(ValueError, match="distinct"):
        MixedPrompt(2, [(torch.tensor([0, 0]), Prompt(mask=square_masks(2)))])
    tracker = Tracker(model)
    with pytest.raises(ValueError, match="neither a prompt nor a memory"):
        tracker.step(features.rows(torch.tensor([0])), 3, tracker.new_memory())
    with pytest.raises(ValueError, match="no memory to attend to"):
        model.attend_memory(features.embed, [], [], span=2)


# ---- rows and gradients ---------------------------------------------------------------------


def track_clip(model, encoded, index, prompt, images_per_frame, frames=4):
    tracker = Tracker(model, policy=LEARNING)
    memory = tracker.new_memory(num_frames=frames)
    outputs = []
    for frame in range(frames):
        rows = encoded.rows(index + images_per_frame * frame)
        outputs.append(tracker.step(rows, frame, memory, prompt=prompt if frame == 0 else None))
    return outputs


def test_rows_of_two_videos_in_training_equal_rows_one_by_one(model, frames):
    model = copy.deepcopy(model).train()
    index = torch.tensor([0, 1, 1])
    prompt = clicks([(20, 30, 1)], [(50, 60, 1)], [(70, 20, 1)])

    def objective(outputs):
        return sum(out.masks.square().mean(dim=(1, 2, 3)).sum() for out in outputs)

    together = track_clip(model, model.encode_frames(frames), index, prompt, images_per_frame=2)
    objective(together).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row in range(3):
        one = torch.tensor([row])
        alone = track_clip(
            model, model.encode_frames(frames), index[one], prompt.rows(one), images_per_frame=2
        )
        for got, single in zip(together, alone, strict=True):
            torch.testing.assert_close(got.masks[one], single.masks, rtol=0, atol=1e-4)
        objective(alone).backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            bound = 1e-4 + 1e-3 * expected[name].abs().max()
            assert (parameter.grad - expected[name]).abs().max() <= bound, name


def test_a_gradient_reaches_every_parameter_that_trains(frames):
    """Clicks, boxes, a mask, language and a correction, with objects present and absent."""
    model = build_sam2(toy_config())
    apply_scratch_init(model, seed=0)
    model.train()
    with torch.no_grad():  # objects are present, but for the one with the empty mask
        model.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.add_(1)
    tracker = Tracker(model, policy=LEARNING)
    encoded = model.encode_frames(frames)
    index = torch.zeros(8, dtype=torch.long)
    tokens = torch.randn(1, 1, model.hidden, requires_grad=True)
    some = clicks([(20, 30, 1)], [(10, 10, 2), (60, 60, 3)], [(9, 9, 0), (50, 50, 1)], [])
    masks = square_masks(3)
    masks[2] = False
    prompt = MixedPrompt(
        8,
        [
            (torch.arange(4), some),
            (torch.arange(4, 7), Prompt(mask=masks)),
            (torch.tensor([7]), Prompt(tokens=tokens)),
        ],
    )
    memory = tracker.new_memory(num_frames=3)
    outputs = [tracker.step(encoded.rows(index), 0, memory, prompt=prompt, multimask=True)]
    conditioned = tracker.condition(encoded.rows(index + 1), 1, memory)
    outputs.append(tracker.decode(conditioned, None, multimask=False))
    correction = clicks(*[[(30, 30, 1)]] * 8)
    correction.previous = outputs[-1].masks
    outputs.append(tracker.decode(conditioned, correction, multimask=True))
    tracker.remember(encoded.rows(index + 1), 1, outputs[-1], memory, prompt=correction)
    outputs.append(tracker.step(encoded.rows(index + 2), 2, memory, multimask=False))
    present = torch.cat([out.object_logits for out in outputs]) > 0
    assert present.float().mean() > 0.5 and not present.all()
    loss = sum(
        out.candidates.masks.square().mean() + out.candidates.iou.mean() + out.object_logits.mean()
        for out in outputs
    )
    loss.backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # Meta's model holds this one too and never reads it; it is frozen here
    assert without == {"blocks.no_memory_positional_encoding"}
    assert not model.blocks.no_memory_positional_encoding.requires_grad
    assert tokens.grad.any()


def test_recomputing_activations_changes_nothing(frames):
    config = sam2_config("tiny", image_size=64)
    torch.manual_seed(0)
    plain = build_sam2(config)
    saving = build_sam2(config, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    clip = frames[:3, :, :64, :64]
    prompt = clicks([(20, 30, 1)])
    index = torch.tensor([0])
    kept = []
    for model in (plain, saving):
        model.train()
        torch.manual_seed(1)  # the memory attention drops out
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            outputs = track_clip(model, model.encode_frames(clip), index, prompt, 1, frames=3)
        sum(out.masks.square().mean() for out in outputs).backward()
        kept.append(sum(sizes))
    for (name, left), (_, right) in zip(
        plain.named_parameters(), saving.named_parameters(), strict=True
    ):
        if left.grad is not None:
            assert torch.equal(left.grad, right.grad), name
    assert kept[1] < 0.4 * kept[0]


def test_drop_path_is_metas(frames):
    torch.manual_seed(0)
    meta = randomise(build_meta(image_size=64, drop_path=0.5)).train()
    ours = build_sam2(sam2_config("tiny", image_size=64), drop_path=0.5).train()
    load_meta_state(ours, meta.state_dict(), where="reference")
    clip = frames[:4, :, :64, :64]
    torch.manual_seed(3)
    expected = encode_meta(meta, clip[None])[0]["backbone_fpn"][-1]
    torch.manual_seed(3)
    got = ours.encode_frames(clip).embed
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    still = ours.eval().encode_frames(clip).embed
    assert (still - got).abs().max() > 0.1
    with pytest.raises(ValueError, match="drop_path"):
        build_sam2(toy_config(), drop_path=1.0)


def test_drop_path_with_recomputed_activations_and_uneven_splits(frames):
    torch.manual_seed(0)
    plain = build_sam2(toy_config(), drop_path=0.5).train()
    saving = build_sam2(toy_config(), drop_path=0.5, checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    for model in (plain, saving):
        torch.manual_seed(1)
        model.encode_frames(frames[:5], split=2).embed.square().mean().backward()
    for (name, left), (_, right) in zip(
        plain.named_parameters(), saving.named_parameters(), strict=True
    ):
        if left.grad is not None:
            assert torch.equal(left.grad, right.grad), name


# ---- a second decoder -----------------------------------------------------------------------


@torch.no_grad()
def test_the_kept_decoder_answers_as_before_tuning(model, frames):
    model = copy.deepcopy(model)
    prompt = clicks([(20, 30, 1)])
    before = model.decode_masks(model.encode_frames(frames[:1]), prompt)
    old = model.encode_frames(frames[:1])
    model.keep_propagation_decoder()
    for parameter in model.blocks.mask_decoder.parameters():  # tuning moves all, conv_s0 included
        parameter.add_(0.1 * torch.randn_like(parameter))
    features = model.encode_frames(frames[:1])
    tuned = model.decode_masks(features, prompt)
    kept = model.decode_masks(features, prompt, decoder=model.propagation_decoder)
    assert torch.equal(kept.masks, before.masks)
    assert (tuned.masks - before.masks).abs().max() > 1e-2
    assert not any(p.requires_grad for p in model.propagation_decoder.parameters())
    with pytest.raises(ValueError, match="encode them again"):
        model.decode_masks(old, prompt, decoder=model.propagation_decoder)
    with pytest.raises(ValueError, match="propagation_decoder"):
        model.decode_masks(features, prompt, decoder=copy.deepcopy(model.propagation_decoder))


# ---- precision and caches -------------------------------------------------------------------


@torch.no_grad()
def test_tables_stay_float32_when_the_model_is_cast(model, frames):
    cast = copy.deepcopy(model).bfloat16()
    tables, exact = dict(cast.named_buffers()), dict(model.named_buffers())
    assert all(torch.equal(table, exact[name]) for name, table in tables.items())
    assert {p.dtype for p in cast.parameters()} == {torch.bfloat16}
    prompt, index = Prompt(mask=square_masks(2)), torch.tensor([0, 1])
    rough = track_clip(cast, cast.encode_frames(frames), index, prompt, 2)
    fine = track_clip(model, model.encode_frames(frames), index, prompt, 2)
    for left, right in zip(rough[1:], fine[1:], strict=True):
        scale = right.masks.abs().max()
        assert left.masks.dtype == torch.float32
        assert (left.masks - right.masks).abs().mean() < 0.05 * scale
    assert (
        dict(cast.double().named_parameters())["blocks.no_memory_embedding"].dtype == torch.float64
    )


@torch.no_grad()
def test_autocast(model, frames):
    index, prompt = torch.tensor([0, 1]), clicks([(20, 30, 1)], [(60, 60, 1)])
    fine = track_clip(model, model.encode_frames(frames), index, prompt, 2)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.encode_frames(frames)
        rough = track_clip(model, encoded, index, prompt, 2)
    assert encoded.embed.dtype == torch.bfloat16
    for left, right in zip(rough, fine, strict=True):
        assert left.masks.dtype == torch.float32
        assert (left.masks - right.masks).abs().mean() < 0.05 * right.masks.abs().max()


def test_tables_follow_loaded_weights_and_survive_inference_mode(model, features):
    model = copy.deepcopy(model)
    with torch.inference_mode():
        first = model._dense_position().clone()
    assert not model._dense_position().is_inference()
    state = model.state_dict()
    for name in state:
        if name.endswith("positional_embedding"):
            state[name] = state[name] * 2
    model.load_state_dict(state)
    assert not torch.allclose(model._dense_position(), first)
    model.decode_masks(features, None).masks.sum().backward()  # no inference tensor is in the way


def test_scratch_init_is_seeded_and_complete():
    """Every weight is drawn from the seed, whatever it was before."""
    states = []
    for junk, seed in ((0.0, 0), (7.0, 0), (7.0, 1)):
        model = build_sam2(toy_config())
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.blocks.buffers()):
                if tensor.is_floating_point() and tensor.requires_grad:
                    tensor.fill_(junk)
        outside = torch.get_rng_state()
        apply_scratch_init(model, seed=seed)
        assert torch.equal(torch.get_rng_state(), outside)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    differing = [key for key in states[0] if not torch.equal(states[1][key], states[2][key])]
    assert len(differing) > 0.4 * len(states[0])
    code = "blocks.{}.positional_embedding"
    assert torch.equal(
        states[0][code.format("shared_image_embedding")],
        states[0][code.format("prompt_encoder.shared_embedding")],
    )
    cross = "blocks.mask_decoder.transformer.layers.0.cross_attn_token_to_image.{}_proj.weight"
    assert torch.equal(states[0][cross.format("q")], states[0][cross.format("k")])


@pytest.mark.parametrize(
    "wrong",
    [
        dict(size="huge"),
        dict(size="tiny", image_size=1000),
        dict(size="tiny", num_maskmem=0),
        dict(size="tiny", version="3"),
    ],
)
def test_wrong_sizes(wrong):
    with pytest.raises(ValueError, match="huge|multiple of 32|num_maskmem|version"):
        sam2_config(**wrong)
    with pytest.raises(ValueError, match="multiple of 16"):
        toy_config(image_size=100)
    with pytest.raises(ValueError, match="max_cond_frames"):
        TrackingPolicy(max_cond_frames=1)
