"""Training with memory in the loop: the frames that inference tracks are tracked in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.llava_sam2.datasets.frame_samplers import FirstFrames
from projects.llava_sam2.models import language_unroll
from projects.llava_sam2.models.language_unroll import LanguageUnroll
from projects.llava_sam2.predictor import GroundedPredictor
from projects.llava_sam2.replies import Reply
from projects.sam2_video.modeling import Prompt, TrackingPolicy
from projects.sam2_video.modeling.tracker import Tracker
from tests.llava_sam2.models.toy_parts import segment_head, toy_sam2

POLICY = TrackingPolicy(hide_absent=False)


def by_hand(grounding, frames, token, prompted):
    """Masks [T, h, w] of one expression on one clip, frame by frame."""
    tracker = Tracker(grounding, policy=POLICY)
    memory, masks = tracker.new_memory(), []
    for index, frame in enumerate(frames):
        language = Prompt(tokens=token.view(1, 1, -1)) if index < prompted else None
        output = tracker.step(
            grounding.encode_frames(frame[None]),
            index,
            memory,
            prompt=language,
            use_memory=language is None,
            multimask=None if language is None else False,
        )
        masks.append(output.masks[0, 0])
    return torch.stack(masks)


def clips():
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (6, 3, 96, 96), dtype=torch.uint8, generator=draw)
    tokens = torch.randn(3, 64, generator=draw)
    # two expressions on a clip of 4 frames, one on a clip of 2
    expression = torch.tensor([0] * 4 + [1] * 4 + [2] * 2)
    frame = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 5])
    return frames, tokens, expression, frame


@torch.no_grad()
@pytest.mark.parametrize("prompted", [1, 2, 9])
def test_each_clip_is_tracked_as_alone(prompted):
    grounding = toy_sam2().eval()
    frames, tokens, expression, frame = clips()
    unroll = LanguageUnroll(prompted_frames=prompted)
    masks, iou, objects = unroll(
        grounding, grounding.encode_frames(frames), tokens, expression, frame
    )
    expected = [
        by_hand(grounding, frames[:4], tokens[0], prompted),
        by_hand(grounding, frames[:4], tokens[1], prompted),
        by_hand(grounding, frames[4:], tokens[2], prompted),
    ]
    torch.testing.assert_close(masks, torch.cat(expected), rtol=1e-3, atol=1e-3)
    assert iou.shape == objects.shape == (10,)


@torch.no_grad()
def test_a_rank_with_shorter_clips_takes_as_many_steps(monkeypatch):
    grounding = toy_sam2().eval()
    frames, tokens, expression, frame = clips()
    features = grounding.encode_frames(frames)
    alone = LanguageUnroll()(grounding, features, tokens, expression, frame)
    monkeypatch.setattr(language_unroll, "most_over_ranks", lambda count, device: count + 2)
    calls = []
    monkeypatch.setattr(
        Tracker,
        "decode",
        lambda self, *a, _f=Tracker.decode, **k: calls.append(1) or _f(self, *a, **k),
    )
    beside = LanguageUnroll()(grounding, features, tokens, expression, frame)
    assert len(calls) == 4 + 2
    for one, other in zip(alone, beside, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_training_computes_what_inference_does(build_model, tokenizer):
    """The predictor's masks of a clip: prompted on its first frames, tracked through the rest."""
    model = build_model(head=segment_head(train_with_memory=LanguageUnroll())).eval()
    draw = np.random.default_rng(0)
    video = draw.integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    token = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))

    class Frames:
        def __len__(self):
            return len(video)

        def __getitem__(self, index):
            return video[index]

        def read(self, indices):
            return video[list(indices)]

    class Inputs:
        def grounding_frames(self, frames):
            return torch.from_numpy(frames).permute(0, 3, 1, 2)

    predictor = GroundedPredictor(
        model=model, inputs=Inputs(), frames=FirstFrames(num=2), tracking=POLICY
    )
    predictor.replies.to = lambda *a, **k: [Reply("it is [SEG]", torch.zeros(1, 96))]
    predictor._tokens = lambda replies: token
    predicted = predictor.video(Frames(), ["?"])[0].decoded()
    frames = Inputs().grounding_frames(video)
    masks, _, _ = model.heads["segment"].unroll(
        model.grounding,
        model.grounding.encode_frames(frames),
        token,
        torch.zeros(5, dtype=torch.int64),
        torch.arange(5),
    )
    full = torch.nn.functional.interpolate(
        masks[:, None], (96, 96), mode="bilinear", align_corners=False
    )
    assert 0 < predicted.mean() < 1
    assert (predicted == (full[:, 0] > 0).numpy()).mean() > 0.999


def test_gradients_reach_the_memory_and_the_words_through_it(build_model, make_sample, collate):
    batch = collate(make_sample(1, ["red circle", "blue square"], frames=3), make_sample(2))
    for unroll in (None, LanguageUnroll(prompted_frames=1)):
        model = build_model(head=segment_head(train_with_memory=unroll))
        losses = model.loss(batch)
        sum(losses.values()).backward()
        memory = [p.grad for n, p in model.grounding.named_parameters() if "memory_attention" in n]
        reached = any(grad is not None and grad.any() for grad in memory)
        assert reached == (unroll is not None)
        assert losses["loss_bce"].item() > 0
    # without masks the same modules run, for nothing
    assert model.loss(collate(make_sample(3, ())))["loss_bce"].item() == 0


def test_what_cannot_be_together(build_model):
    with pytest.raises(ValueError, match="at least 1 frame"):
        LanguageUnroll(prompted_frames=0)
    with pytest.raises(ValueError, match="rows_per_chunk"):
        segment_head(train_with_memory=LanguageUnroll(), rows_per_chunk=4)
    head = segment_head(train_with_memory=LanguageUnroll())
    with pytest.raises(ValueError, match="say 'tuned'"):
        build_model(head=head, propagation_decoder="original")
