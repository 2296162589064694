"""The whole model: what trains, what stays, tasks, and two processes against one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from projects.llava_sam2.models.sa2va import parameters_reached
from projects.sam2_video.data.clip import Clip, collate_clips
from tests.llava_sam2.models import two_ranks

LORA = dict(rank=4, alpha=8, dropout=0.1, targets=["q_proj", "v_proj", "mlp.*_proj"])
RECIPE = [  # as Sa2VA trains: LoRA, words in and out, SAM 2's mask decoder, the [SEG] projector
    "mllm.model.model.language_model.embed_tokens",
    "mllm.model.lm_head",
    "mllm.model.model.multi_modal_projector",
    "grounding.blocks.mask_decoder",
    "heads.segment",
]


@pytest.fixture
def clips():
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8, generator=draw)
    masks = torch.zeros(3, 1, 96, 96, dtype=torch.bool)
    masks[:, 0, 20:60, 30:70] = True
    return collate_clips([Clip(frames=frames, masks=masks, object_ids=[1], name="v", seed=4)])


def backward(model, batch):
    model.zero_grad()
    losses = model.loss(batch)
    sum(losses.values()).backward()
    grads = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    return losses, grads


# SAM 2's mask decoder parts that a language prompt with a single mask does not use: the IoU head
# (no IoU loss here), the object score head, and the hypernetworks of the other three masks
UNUSED = (
    "iou_prediction_head",
    "pred_obj_score_head",
    *(f"hypernetworks_mlps.{i}" for i in (1, 2, 3)),
)


def test_a_gradient_reaches_every_part_that_trains_and_no_other(build_model, make_sample, collate):
    model = build_model(trainable=RECIPE, lora=LORA).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():  # LoRA starts with B = 0, where A has no gradient
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    batch = collate(make_sample(1, ["red circle", "blue square"]), make_sample(2, frames=2))
    _, grads = backward(model, batch)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert grads <= trainable
    missing = {n for n in trainable - grads if not any(part in n for part in UNUSED)}
    assert missing == set()
    lora = {n for n in trainable if "lora_" in n}
    assert len(lora) == 2 * 2 * 5 and all("language_model.layers" in n for n in lora)
    assert all(".lm_head" not in n and "vision_tower" not in n for n in lora)
    assert not any(n.startswith("mllm.model.model.vision_tower") for n in trainable)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    optimizer.step()
    for name, parameter in model.named_parameters():
        if "lora_B" not in name:
            assert torch.equal(parameter, before[name]) == (name not in grads), name


def test_the_language_loss_alone_never_touches_sam2(build_model, make_sample, collate):
    model = build_model()
    losses, grads = backward(model, collate(make_sample(3, (), task="chat")))
    assert set(losses) == {"loss_language"} and losses["loss_language"] > 0
    assert grads and all(name.startswith("mllm.") for name in grads)


def test_masks_teach_the_language_model(build_model, make_sample, collate):
    """Without a language loss the gradient still passes [SEG] into words and pixels."""
    model = build_model()
    model.heads["segment"].language_weight = 0.0
    _, grads = backward(model, collate(make_sample(1)))
    assert {
        "mllm.model.model.language_model.embed_tokens.weight",
        "mllm.model.model.vision_tower.embeddings.patch_embeddings.projection.weight",
        "heads.segment.text_hidden_fcs.0.weight",
        "grounding.blocks.vision_encoder.backbone.patch_embed.projection.weight",
    } <= grads
    assert "mllm.model.lm_head.weight" not in grads


def test_clips_train_sam2_with_its_memory_and_nothing_else(build_model, clips):
    model = build_model()
    losses, grads = backward(model, clips)
    assert set(losses) == {f"loss_track_{part}" for part in ("mask", "dice", "iou", "class")}
    assert all(name.startswith("grounding.") for name in grads)
    assert any("memory_attention" in name for name in grads)
    alone = model.heads["track"].unroll(model.grounding, clips)
    for key, value in alone.items():
        torch.testing.assert_close(losses[key.replace("loss_", "loss_track_")], 0.5 * value)


def test_frozen_parts_stay_in_eval_and_outside_autograd(build_model, make_sample, collate):
    model = build_model(trainable=RECIPE, lora=LORA).train()
    frozen = (model.mllm.model.model.vision_tower, model.grounding.blocks.vision_encoder)
    for part in (*frozen, model.grounding.blocks.memory_attention):
        assert not any(module.training for module in part.modules())
    assert model.grounding.blocks.mask_decoder.training
    dropouts = [
        m for n, m in model.named_modules() if "lora_dropout" in n and not list(m.children())
    ]
    assert dropouts and all(m.training for m in dropouts)
    grads = []
    called = (frozen[0], frozen[1].backbone.patch_embed)  # Hiera runs block by block
    for part in called:
        part.register_forward_hook(lambda m, args, out: grads.append(_any_grad(out)))
    model.loss(collate(make_sample(1)))
    assert grads == [False, False]
    model.eval()
    assert not any(module.training for module in model.modules())


def _any_grad(output):
    values = [output] if isinstance(output, torch.Tensor) else output.values()
    flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(v, torch.Tensor) and v.requires_grad for v in flat)


def test_the_original_decoder_is_kept_and_never_trains(build_model, make_sample, collate):
    model = build_model(trainable=["grounding", "heads"], propagation_decoder="original")
    kept = copy.deepcopy(model.grounding.propagation_decoder.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    backward(model, collate(make_sample(1)))
    optimizer.step()
    after = model.grounding.propagation_decoder.state_dict()
    assert all(torch.equal(kept[key], after[key]) for key in kept)
    tuned = model.grounding.blocks.mask_decoder.state_dict()
    assert any(not torch.equal(kept[key], tuned[key]) for key in kept)
    assert model.video_predictor().decoder is model.grounding.propagation_decoder
    assert build_model().video_predictor().decoder is None


def test_touch_all_gives_each_trainable_parameter_a_gradient_and_changes_none(
    build_model, make_sample, collate, clips
):
    chat = collate(make_sample(3, (), task="chat"))
    for batch in (chat, collate(make_sample(1)), clips):
        gradients = []
        for touch in (False, True):
            model = build_model(touch_all=touch)
            sum(model.loss(batch).values()).backward()
            gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        plain, touched = gradients
        assert any(g is None for g in plain.values())
        for name, gradient in touched.items():
            expected = torch.zeros_like(gradient) if plain[name] is None else plain[name]
            assert torch.equal(gradient, expected), name


def test_parameters_reached_sees_through_checkpointing():
    a, b, c = (nn.Linear(2, 2) for _ in range(3))
    inner = torch.utils.checkpoint.checkpoint(a, torch.ones(1, 2), use_reentrant=False)
    reached = parameters_reached([b(inner).sum(), torch.tensor(0.0)])
    assert reached == {*a.parameters(), *b.parameters()} and not reached & {*c.parameters()}


def test_mistakes_are_told(build_model, make_sample, collate):
    with pytest.raises(ValueError, match="'grounding.mask_decodr' matches no parameter; near"):
        build_model(trainable=["grounding.mask_decodr"])
    with pytest.raises(ValueError, match="LoRA target 'wqkv' matches no linear layer"):
        build_model(lora=dict(rank=4, alpha=8, targets=["wqkv"]))
    with pytest.raises(ValueError, match="'original' or 'tuned', not 'kept'"):
        build_model(propagation_decoder="kept")
    with pytest.raises(ValueError, match="no head for the task 'box'; the model has segment, chat"):
        build_model().loss(collate(make_sample(1, task="box")))


def test_seg_is_read_alike_in_training_and_generation(build_model, make_sample, collate):
    """The token that prompts SAM 2 is the same from a generated and from a given answer."""
    model = build_model().eval()
    mllm, sample = model.mllm, make_sample(1)
    tokens = sample.input_ids.tolist()
    start = tokens.index(mllm.tokenizer.convert_tokens_to_ids("assistant")) + 1
    answer = iter(tokens[start:])

    def say(module, args, logits):
        return torch.nn.functional.one_hot(torch.tensor([next(answer)]), logits.shape[-1]).float()

    handle = mllm.model.lm_head.register_forward_hook(say)
    (spoken,) = mllm.generate([sample.input_ids[:start]], sample.pixel_values, max_new_tokens=20)
    handle.remove()
    with torch.no_grad():
        batch = collate(sample)
        hidden = mllm(batch.input_ids, batch.attention_mask, batch.pixel_values)
    expected = hidden[batch.input_ids == mllm.seg_id]
    assert spoken.text == "sure it is [SEG] red circle ."
    torch.testing.assert_close(spoken.seg_hidden, expected, rtol=1e-4, atol=1e-5)


def test_two_processes_take_the_step_of_one(tokenizer, make_sample, tmp_path):
    """Unequal halves: other numbers of expressions, frames and tokens, and one without masks."""
    samples = [
        make_sample(1, ["red circle", "blue square", "red square"]),
        make_sample(2, frames=2),
        make_sample(3, ()),
        make_sample(6, (), task="segment"),
    ]
    expected = two_ranks.step(tokenizer, samples)
    for name, found in two_ranks.run(tokenizer, [samples[:2], samples[2:]], tmp_path).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-6, msg=name)
