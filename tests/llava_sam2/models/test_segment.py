"""The segment head against a row-by-row computation of its own."""

from __future__ import annotations

import math

import pytest
import torch

from projects.llava_sam2.models.heads import SegmentHead, decode_language, segment
from projects.sam2_video.modeling import MemoryBank, Prompt, Tracker, TrackingPolicy
from tests.llava_sam2.models.toy_parts import segment_head


def by_hand(model, samples):
    """Mean BCE and dice over all (expression, frame) rows, one row and one sample at a time."""
    bce, dice = [], []
    tracker = Tracker(model.grounding, policy=TrackingPolicy(hide_absent=False))
    for sample in samples:
        if sample.masks is None:
            continue
        mask = torch.ones(1, len(sample.input_ids), dtype=torch.bool)
        hidden = model.mllm(sample.input_ids[None], mask, sample.pixel_values)[0]
        seg = hidden[sample.input_ids == model.mllm.seg_id]
        for expression, truths in zip(seg, sample.masks, strict=True):
            first, _, last = model.heads["segment"].text_hidden_fcs
            token = last(torch.relu(first(expression)))
            for frame, truth in zip(sample.grounding_frames, truths, strict=True):
                output = tracker.step(
                    model.grounding.encode_frames(frame[None]),
                    0,
                    tracker.new_memory(),
                    prompt=Prompt(tokens=token.view(1, 1, -1)),
                    use_memory=False,
                    multimask=False,
                    run_memory_encoder=False,
                )
                p = output.masks[0, 0].double().sigmoid()
                y = truth.double()
                bce.append(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
                dice.append(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
    return torch.stack(bce).mean().item(), torch.stack(dice).mean().item()


@pytest.fixture
def samples(make_sample):
    """2 expressions on 1 frame, 1 on 3 frames, none."""
    return [
        make_sample(1, ["red circle", "blue square"]),
        make_sample(2, frames=3),
        make_sample(3, ()),
    ]


@torch.no_grad()
def test_losses_are_means_over_rows(build_model, samples, collate):
    model = build_model().eval()
    losses = model.loss(collate(*samples))
    bce, dice = by_hand(model, samples)
    assert losses["loss_bce"].item() == pytest.approx(2.0 * bce, rel=1e-4)
    assert losses["loss_dice"].item() == pytest.approx(0.5 * dice, rel=1e-4)
    assert set(losses) == {"loss_language", "loss_bce", "loss_dice"}
    swapped = model.loss(collate(samples[2], samples[1], samples[0]))
    assert losses["loss_bce"].item() == pytest.approx(swapped["loss_bce"].item(), rel=1e-5)


@torch.no_grad()
def test_a_batch_is_the_mean_of_its_samples_when_they_weigh_the_same(
    build_model, make_sample, collate
):
    model = build_model().eval()
    pair = [make_sample(1, frames=2), make_sample(2, frames=2)]
    singles = [model.loss(collate(sample)) for sample in pair]
    both = model.loss(collate(*pair))
    for key in both:
        mean = sum(single[key].item() for single in singles) / 2
        assert both[key].item() == pytest.approx(mean, rel=1e-4), key


@torch.no_grad()
def test_more_rows_and_tokens_weigh_more(build_model, make_sample, collate):
    model = build_model().eval()
    pair = [make_sample(1, ["red circle", "blue square"]), make_sample(2)]
    singles = [model.loss(collate(sample)) for sample in pair]
    both = model.loss(collate(*pair))
    tokens = [int((sample.labels != -100).sum()) for sample in pair]
    for key, (a, b) in {"loss_bce": (2, 1), "loss_dice": (2, 1), "loss_language": tokens}.items():
        mean = (a * singles[0][key].item() + b * singles[1][key].item()) / (a + b)
        assert both[key].item() == pytest.approx(mean, rel=1e-4), key


def gradients(model, batch):
    model.zero_grad()
    sum(model.loss(batch).values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_chunked_rows_give_the_same_gradients(build_model, samples, collate):
    batch = collate(*samples)
    whole = gradients(build_model(head=segment_head()), batch)
    chunked = build_model(head=segment_head(rows_per_chunk=2, frames_per_chunk=1))
    for name, gradient in gradients(chunked, batch).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("most", [3, 5, 9])
def test_the_image_encoder_is_called_as_often_as_on_the_rank_with_the_most_frames(
    build_model, samples, collate, monkeypatch, most
):
    batch = collate(*samples[:2])  # 4 frames
    whole = gradients(build_model(head=segment_head()), batch)
    model = build_model(head=segment_head(frames_per_chunk=2))
    monkeypatch.setattr(segment, "most_over_ranks", lambda count, device: max(count, most))
    calls = []
    encode = model.grounding._encode_images
    monkeypatch.setattr(
        model.grounding, "_encode_images", lambda chunk: calls.append(len(chunk)) or encode(chunk)
    )
    found = gradients(model, batch)
    assert len(calls) == -(-max(4, most) // 2)  # what ZeRO-3 waits for
    assert max(calls) <= 2
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-3, atol=1e-6, msg=name)


def test_without_masks_the_mask_losses_are_zero_through_the_same_modules(
    build_model, make_sample, collate
):
    model = build_model()
    usual = gradients(model, collate(make_sample(1)))
    for sample in (make_sample(3, ()), make_sample(1, masks=False)):  # also [SEG] without masks
        batch = collate(sample)
        losses = model.loss(batch)
        assert losses["loss_bce"].item() == losses["loss_dice"].item() == 0.0
        found = gradients(model, batch)
        assert set(found) == set(usual)
        assert not any(g.any() for n, g in found.items() if not n.startswith("mllm."))
    model.mllm.language_loss = lambda hidden, labels, **_: hidden.sum() * 0
    assert not any(g.any() for g in gradients(model, batch).values())


@torch.no_grad()
def test_masks_of_another_resolution_are_compared_at_theirs(build_model, make_sample, collate):
    model = build_model().eval()
    sample = make_sample(1)
    coarse = model.loss(collate(sample))
    sample.masks = sample.masks.repeat_interleave(2, -1).repeat_interleave(2, -2)
    fine = model.loss(collate(sample))
    assert fine["loss_bce"].item() == pytest.approx(coarse["loss_bce"].item(), rel=0.1)
    hidden = model.mllm(sample.input_ids[None], torch.ones(1, len(sample.input_ids)).bool(),
                        sample.pixel_values)  # fmt: skip
    token = model.heads["segment"].project(hidden[sample.input_ids[None] == model.mllm.seg_id])
    features = model.grounding.encode_frames(sample.grounding_frames)
    masks = decode_language(model.grounding, features, token).masks
    big = torch.nn.functional.interpolate(masks, (96, 96), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(big, sample.masks.float())
    assert fine["loss_bce"].item() == pytest.approx(2 * expected.item(), rel=1e-4)


@torch.no_grad()
def test_points_crowd_where_the_mask_is_undecided_and_line_up_with_the_targets():
    grid = torch.linspace(-1, 1, 48)
    disk = grid[:, None] ** 2 + grid[None] ** 2
    masks, targets, one = (20 * (0.5 - disk))[None], (disk < 0.4)[None], torch.ones(1)
    sampled = SegmentHead(projector=torch.nn.Identity(), num_points=20000)
    torch.manual_seed(0)
    logits, truth = sampled._compare_at(masks, targets)
    assert logits.shape == truth.shape == (1, 20000)
    assert (logits.abs() < 2).float().mean() > 2 * (masks.abs() < 2).float().mean()
    assert (truth[logits > 8] > 0.99).all() and (truth[logits < -8] < 0.01).all()
    pixels = SegmentHead(projector=torch.nn.Identity(), num_points=None)
    # the mask is wrong only in a ring, which most points see
    bce = [head.mask_losses(masks, one, one, targets)["loss_bce"] for head in (sampled, pixels)]
    assert bce[0] > 1.5 * bce[1]


@torch.no_grad()
def test_iou_and_object_terms(make_sample):
    head = segment_head(iou_weight=0.5, object_weight=0.25)
    masks = torch.full((2, 4, 4), -3.0)
    masks[0, :2] = 3.0
    targets = torch.zeros(2, 4, 4, dtype=torch.bool)
    targets[0, 1:3] = True  # overlap 4 of 12 pixels
    losses = head.mask_losses(masks, torch.tensor([0.9, 0.2]), torch.tensor([1.0, -2.0]), targets)
    iou = [0.5 * (0.9 - 1 / 3) ** 2, 0.5 * 0.2**2]
    assert losses["loss_iou"].tolist() == pytest.approx(iou, rel=1e-5)
    score = [0.25 * -torch.tensor(x).sigmoid().log().item() for x in (1.0, 2.0)]
    assert losses["loss_object"].tolist() == pytest.approx(score, rel=1e-5)


@torch.no_grad()
def test_alignment_compares_dot_products_with_covered_shares():
    head = segment_head(bce_weight=2.0, align_weight=0.5)
    tokens = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0]])
    embed = torch.zeros(2, 4, 1, 2)
    embed[0, 0] = torch.tensor([[3.0, -3.0]])  # dot products 6 and -6, over sqrt(4): 3 and -3
    embed[1, 2] = torch.tensor([[-1.0, 0.5]])  # -2 and 1
    targets = torch.zeros(2, 2, 4, dtype=torch.bool)
    targets[0, :, :2] = True  # all of the left cell, nothing of the right one
    targets[1, 0, 2:] = True  # half of the right one
    expected = []
    for logits, shares in (((3.0, -3.0), (1.0, 0.0)), ((-2.0, 1.0), (0.0, 0.5))):
        p = [1 / (1 + 2.718281828459045**-x) for x in logits]
        pairs = list(zip(p, shares, strict=True))
        bce = -sum(y * math.log(x) + (1 - y) * math.log(1 - x) for x, y in pairs) / 2
        dice = 1 - (2 * sum(x * y for x, y in pairs) + 1) / (sum(p) + sum(shares) + 1)
        expected.append(0.5 * (2.0 * bce + dice))
    assert head.align_loss(embed, tokens, targets).tolist() == pytest.approx(expected, rel=1e-5)


def test_alignment_reaches_words_and_pixels_and_nothing_where_masks_lack(
    build_model, make_sample, samples, collate
):
    model = build_model(head=segment_head(align_weight=1.0))
    losses = model.loss(collate(*samples))
    losses["loss_align"].backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("vision_encoder" in name for name in moved)
    assert any("language_model" in name for name in moved)
    assert not any("mask_decoder.transformer" in name for name in moved)
    assert model.loss(collate(make_sample(3, ())))["loss_align"].item() == 0.0


def test_more_seg_tokens_than_masks_names_the_sample(build_model, make_sample, collate):
    good, bad = make_sample(1), make_sample(2, ["red circle", "blue square"])
    bad.masks = bad.masks[:1]
    with pytest.raises(ValueError, match=r"sample 2: 2 \[SEG\] tokens but 1 expressions"):
        build_model().loss(collate(good, bad))


@torch.no_grad()
def test_memory_plays_no_part(build_model, make_sample):
    """What training decodes is what a tracker decodes on a prompted frame."""
    model = build_model().eval()
    sample = make_sample(1)
    features = model.grounding.encode_frames(sample.grounding_frames)
    tokens = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    direct = decode_language(model.grounding, features, tokens)
    tracker = Tracker(model.grounding, policy=TrackingPolicy(hide_absent=False))
    memory = tracker.new_memory()
    assert isinstance(memory, MemoryBank)
    tracker.step(features, 0, memory, prompt=Prompt(mask=torch.ones(1, 1, 96, 96)))
    options = {"prompt": Prompt(tokens=tokens[:, None]), "multimask": False}
    prompted = tracker.step(features, 1, memory, use_memory=False, **options)
    torch.testing.assert_close(prompted.masks, direct.masks, rtol=1e-4, atol=1e-4)
    remembering = tracker.step(features, 2, memory, use_memory=True, **options)
    assert not torch.allclose(remembering.masks, direct.masks, rtol=1e-3, atol=1e-3)
