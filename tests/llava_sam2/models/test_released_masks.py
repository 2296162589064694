"""The segment head against Sa2VA's own computation, on the modules of PyPI's ``sam2``.

Sa2VA lets SAM 2's rule for a frame without clicks decide how many masks there are (three, the best
of which is taken), leaves absent objects as they are, and averages BCE and dice over points that
are drawn as in PointRend.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from projects.llava_sam2.models.heads import SegmentHead, decode_language, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.sam2_video.modeling import Prompt, Tracker, TrackingPolicy, build_sam2, sam2_config
from projects.sam2_video.modeling.meta_weights import load_meta_state
from tests.llava_sam2.models import toy_parts
from tests.llava_sam2.models.released import SIZE, released, rows_of_language, undecided
from tests.sam2_video.meta_reference import build_meta, randomise

POINTS = 1000


@pytest.fixture(scope="module", params=["2.1", "2.0"])
def pair(request):
    """Meta's model and ours."""
    meta = randomise(build_meta(version=request.param)).eval()
    undecided(meta)
    ours = build_sam2(sam2_config("tiny", image_size=SIZE, version=request.param))
    load_meta_state(ours, meta.state_dict(), where="reference")
    return meta, ours.eval()


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 9])
def test_masks_and_pointers_of_language_tokens(pair, rows):
    meta, ours = pair
    frames, tokens = rows_of_language(rows)
    expected, pointers, best, there = released(meta, frames, tokens)
    assert rows == 1 or len(set(best.tolist())) > 1  # the predicted IoU has something to choose
    assert rows == 1 or 0 < there.sum() < rows  # masks are left although the object is absent
    features = ours.encode_frames(frames)
    found = decode_language(ours, features, tokens)
    assert found.masks.shape[1] == 1
    torch.testing.assert_close(found.masks[:, 0], expected, rtol=0, atol=1e-4)
    tracker = Tracker(ours, policy=TrackingPolicy(hide_absent=False))
    prompt = Prompt(tokens=tokens[:, None])
    output = tracker.step(features, 0, tracker.new_memory(), prompt=prompt, use_memory=False)
    torch.testing.assert_close(output.masks[:, 0], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(output.pointer, pointers, rtol=0, atol=1e-4)


def pointrend(logits):
    """Points [R, P, 2] in the unit square: three quarters of them the least certain of 3 P."""
    drawn = torch.rand(len(logits), 3 * POINTS, 2)
    certain = sample(logits, drawn).abs()
    taken = certain.argsort(dim=1)[:, : 3 * POINTS // 4]
    kept = torch.stack([row[index] for row, index in zip(drawn, taken, strict=True)])
    return torch.cat([kept, torch.rand(len(logits), POINTS - 3 * POINTS // 4, 2)], dim=1)


def sample(masks, points):
    """Values [R, P]: bilinear between the four pixels around a point, zero outside."""
    height, width = masks.shape[-2:]
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    total = torch.zeros_like(x)
    for column in (x.floor(), x.floor() + 1):
        for row in (y.floor(), y.floor() + 1):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            value = masks.float().flatten(1).gather(1, place.long())
            total += inside * value * (1 - (x - column).abs()) * (1 - (y - row).abs())
    return total


@torch.no_grad()
def test_losses_of_a_batch(pair, tokenizer, collate):
    """One object on an image, nine on two frames, one that is nowhere, and a sample without any."""
    meta, ours = pair
    torch.manual_seed(2)
    head = SegmentHead(projector=seg_projector(hidden=96, out=256), num_points=POINTS)
    model = Sa2VA(
        mllm=toy_internvl(tokenizer=tokenizer, seed=1),
        grounding=ours,
        heads={"segment": head},
        trainable=["*"],
    ).eval()
    nine = ["red circle", "blue square", "circle"] * 3
    samples = [
        toy_parts.make_sample(tokenizer, 1),
        toy_parts.make_sample(tokenizer, 2, nine, frames=2),
        toy_parts.make_sample(tokenizer, 3, ()),
    ]
    for data in samples[:2]:
        data.grounding_frames = F.interpolate(data.grounding_frames, (SIZE, SIZE))
        data.masks = F.interpolate(data.masks.float(), (32, 32)) > 0
    samples[1].masks[4] = False
    torch.manual_seed(0)
    losses = model.loss(collate(*samples))

    logits, truth = [], []
    for data in samples[:2]:
        seen = torch.ones(1, len(data.input_ids), dtype=torch.bool)
        hidden = model.mllm(data.input_ids[None], seen, data.pixel_values)[0]
        tokens = head.text_hidden_fcs(hidden[data.input_ids == model.mllm.seg_id])
        for token, masks in zip(tokens, data.masks, strict=True):
            for frame, mask in zip(data.grounding_frames, masks, strict=True):
                logits.append(released(meta, frame[None], token[None])[0][0])
                truth.append(mask)
    logits, truth = torch.stack(logits), torch.stack(truth)
    assert len(logits) == 1 + 9 * 2
    torch.manual_seed(0)
    points = pointrend(logits)
    x, y = sample(logits, points), sample(truth, points)
    p = x.sigmoid()
    bce = F.softplus(x) - x * y
    dice = 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
    assert losses["loss_bce"].item() == pytest.approx(2.0 * bce.mean().item(), rel=1e-4)
    assert losses["loss_dice"].item() == pytest.approx(0.5 * dice.mean().item(), rel=1e-4)
