"""The training unroll: who is prompted when, what remembers what, and where gradients go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from projects.sam2_video.losses import MultiStepMaskLoss
from projects.sam2_video.modeling.tracker import Tracker, TrackingPolicy
from projects.sam2_video.prompting import PromptPlan, PromptSimulator
from projects.sam2_video.toy import toy_sam2
from projects.sam2_video.train_model import Sam2VideoTraining, TrainingUnroll, shrink_masks


def for_all_rows(plan, visible):
    return [replace(plan, rows=tuple(range(visible.shape[1])))]


class PlannedSimulator(PromptSimulator):
    """Draws prompts as usual, but for a plan that the test gives."""

    def __init__(self, plan, **options):
        super().__init__(**options)
        self.fixed = plan

    def plan(self, visible, rng):
        return for_all_rows(self.fixed, visible)


def unroll_with(plan, *, policy=None, resolution="full", clicks=2):
    return TrainingUnroll(
        simulator=PlannedSimulator(plan, num_correction_clicks=clicks),
        loss=MultiStepMaskLoss(),
        policy=policy,
        loss_resolution=resolution,
    )


MASK_FIRST = PromptPlan(conditioning=(0,), mask_prompts=True)


class Recorder:
    """Notes the calls of a tracker's verbs."""

    def __init__(self, monkeypatch):
        self.calls = []
        for verb in ("condition", "decode", "remember"):
            monkeypatch.setattr(Tracker, verb, self._wrap(verb, getattr(Tracker, verb)))

    def _wrap(self, verb, original):
        def call(tracker, *args, **kwargs):
            self.calls.append((verb, args, kwargs))
            return original(tracker, *args, **kwargs)

        return call

    def of(self, verb):
        return [(args, kwargs) for name, args, kwargs in self.calls if name == verb]


def test_conditioning_frames_come_first_and_read_no_memory(random_sam2, clip_batch, monkeypatch):
    recorder = Recorder(monkeypatch)
    plan = PromptPlan(
        conditioning=(0, 2),
        mask_prompts=False,
        box_frames=frozenset({2}),
        correction=frozenset({0, 1}),
    )
    batch = clip_batch(frames=4, objects=(2, 1))
    steps = unroll_with(plan).steps(random_sam2, batch)
    # two clicks beside the first answer on frames 0 and 1
    assert [step.frame for step in steps] == [0, 0, 0, 2, 1, 1, 1, 3]
    order = [(args[1], kwargs["use_memory"]) for args, kwargs in recorder.of("condition")]
    assert order == [(0, False), (2, False), (1, True), (3, True)]
    prompts = [args[1] for args, _ in recorder.of("decode")]
    counts = [0 if prompt is None else prompt.labels.shape[1] for prompt in prompts]
    # a click and two more; a box; no prompt, then a first and a second click; no prompt
    assert counts == [1, 2, 3, 2, 0, 1, 2, 0]
    # a corrected frame becomes a conditioning one; nothing would read the last frame's memory
    memory = recorder.of("remember")[-1][0][3]
    assert sorted(memory.conditioning) == [0, 1, 2] and not memory.tracked


def test_correction_clicks_see_the_previous_answer(random_sam2, clip_batch, monkeypatch):
    recorder = Recorder(monkeypatch)
    plan = PromptPlan(conditioning=(0,), mask_prompts=False, correction=frozenset({0}))
    batch = clip_batch(frames=1, objects=(2, 3))
    steps = unroll_with(plan, clicks=3).steps(random_sam2, batch)
    prompts = [args[1] for args, _ in recorder.of("decode")]
    assert prompts[0].previous is None
    for step, prompt in zip(steps, prompts[1:], strict=False):
        assert torch.equal(prompt.previous, step.candidates.masks[:, :1])
        full = F.interpolate(prompt.previous, (96, 96), mode="bilinear", align_corners=False)
        for row, (x, y) in enumerate(prompt.points[:, -1].long().tolist()):
            truth = batch.masks[0, row, y, x].item()
            wrong = (full[row, 0] > 0) != batch.masks[0, row]
            assert wrong[y, x] or torch.equal(prompt.labels[row, -1], torch.tensor(int(truth)))
            assert prompt.labels[row, -1].item() == int(truth)
    assert len(recorder.of("remember")) == 0  # nothing will read the memory of an image


def test_a_given_mask_is_no_step(random_sam2, clip_batch):
    batch = clip_batch(frames=3, objects=(2,))
    steps = unroll_with(MASK_FIRST).steps(random_sam2, batch)
    assert [step.frame for step in steps] == [1, 2]


def test_gradient_flows_through_the_memory(clip_batch):
    model = toy_sam2(seed=3)
    with torch.no_grad():  # else the pointers of "absent" objects have no gradient
        model.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
    batch = clip_batch(frames=3, objects=(2, 2))
    steps = unroll_with(MASK_FIRST, policy=TrackingPolicy(hide_absent=False)).steps(model, batch)
    last = [step for step in steps if step.frame == 2]
    losses = MultiStepMaskLoss()(last, batch.masks)
    sum(losses.values()).backward()
    for part in (
        model.blocks.memory_encoder,
        model.blocks.memory_attention,
        model.blocks.object_pointer_proj,
        model.blocks.vision_encoder,
    ):
        gradients = [p.grad.abs().sum() for p in part.parameters() if p.grad is not None]
        assert gradients and torch.stack(gradients).sum() > 0
    table = model.blocks.memory_temporal_positional_encoding.grad
    # frame 2 reads frame 1 from place 0 and the conditioning frame from the last
    assert table.abs().sum((1, 2, 3)).gt(0).tolist() == [True] + [False] * 5 + [True]


def test_the_first_answer_learns_from_the_last_frame(clip_batch):
    """The prediction on frame 0 enters the memory with its gradient."""
    model = toy_sam2(seed=3)
    batch = clip_batch(frames=2, objects=(1,))
    plan = PromptPlan(conditioning=(0,), mask_prompts=False)
    steps = unroll_with(plan, policy=TrackingPolicy(hide_absent=False)).steps(model, batch)
    first, last = steps
    (gradient,) = torch.autograd.grad(
        MultiStepMaskLoss()([last], batch.masks)["loss_dice"], first.candidates.masks
    )
    assert gradient.abs().sum() > 0


def test_rows_of_several_videos_equal_each_video_alone(random_sam2, clip, clip_batch):
    """Same plan: what a clip gets and predicts does not depend on its neighbours in the batch."""
    plan = PromptPlan(
        conditioning=(0, 2),
        mask_prompts=False,
        correction=frozenset({0}),
        box_frames=frozenset({2}),
    )
    unroll = unroll_with(plan)
    together = clip_batch(frames=3, objects=(2, 1), seed=4)
    with torch.no_grad():
        whole = unroll.steps(random_sam2, together)
        first = unroll.steps(random_sam2, clip_batch(frames=3, objects=(2,), seed=4))
        second = unroll.steps(random_sam2, clip_batch(frames=3, objects=(1,), seed=5))
    for joint, *apart in zip(whole, first, second, strict=True):
        masks = torch.cat([step.candidates.masks for step in apart])
        assert torch.allclose(joint.candidates.masks, masks, atol=1e-3)


def test_losses_of_the_whole_step(random_sam2, clip_batch):
    """The dict is the multi-step loss of the steps, at either resolution."""
    batch = clip_batch(frames=2, objects=(2, 1))
    for resolution in ("full", "logits"):
        unroll = unroll_with(MASK_FIRST, resolution=resolution)
        model = Sam2VideoTraining(sam2=random_sam2, unroll=unroll).eval()
        with torch.no_grad():
            losses = model(batch)
            steps = unroll.steps(random_sam2, batch)
        targets = batch.masks
        if resolution == "logits":
            targets = torch.stack([m.float().unfold(1, 2, 2).unfold(2, 2, 2) for m in batch.masks])
            targets = targets.mean((-1, -2)) >= 0.5
        expected = MultiStepMaskLoss()(steps, targets)
        assert sorted(losses) == ["loss_class", "loss_dice", "loss_iou", "loss_mask"]
        for name, value in expected.items():
            assert losses[name].item() == pytest.approx(value.item(), rel=1e-5)
        total, logged = model.parse_losses(losses)
        assert total.item() == pytest.approx(sum(v.item() for v in losses.values()), rel=1e-6)


def test_the_same_batch_gives_the_same_losses_and_another_seed_others(random_sam2, clip_batch):
    unroll = TrainingUnroll(
        simulator=PromptSimulator(num_correction_clicks=2), loss=MultiStepMaskLoss()
    )
    with torch.no_grad():
        batch = clip_batch(frames=2, objects=(2, 1))
        first, again = unroll(random_sam2, batch), unroll(random_sam2, batch)
        assert first == again
        batch.seeds = [100, 101]
        assert unroll(random_sam2, batch) != first


def test_an_object_that_appears_later_starts_later(random_sam2, clip_batch):
    batch = clip_batch(frames=4, objects=(2, 1))
    batch.masks[:2, 1] = False
    simulator = PromptSimulator(point_prob=0.0, max_conditioning_frames=1)
    unroll = TrainingUnroll(simulator=simulator, loss=MultiStepMaskLoss())
    with torch.no_grad():
        steps = unroll.steps(random_sam2, batch)
        found = {(step.frame, step.rows): step.candidates.masks for step in steps}
        assert set(found) == {(1, (0, 2)), (2, (0, 2)), (3, (0, 2)), (3, (1,))}
        late = clip_batch(frames=4, objects=(2, 1))
        late.frames, late.masks = batch.frames[:, 2:], batch.masks[2:]
        alone = {(s.frame, s.rows): s.candidates.masks for s in unroll.steps(random_sam2, late)}
    # the late object is tracked as in a clip that starts with it
    assert torch.allclose(found[3, (1,)], alone[1, None][1:2], atol=1e-3)


def test_shared_conditioning_frames_must_show_every_object(random_sam2, clip_batch):
    batch = clip_batch(frames=3, objects=(2, 1))
    batch.masks[0, 1] = False
    simulator = PromptSimulator(per_object=False, point_prob=0.0, max_conditioning_frames=1)
    unroll = TrainingUnroll(simulator=simulator, loss=MultiStepMaskLoss())
    with torch.no_grad():
        assert {step.frame for step in unroll.steps(random_sam2, batch)} == {2}
        batch.masks[:, 2] = False
        with pytest.raises(ValueError, match=r"clip 1.*visible on no frame"):
            unroll.steps(random_sam2, batch)


@pytest.mark.parametrize(
    "options, parts",
    [({"object_chunk": 1}, False), ({"checkpoint_clicks": True}, True), ({"encode_split": 1}, ())],
)
def test_what_saves_memory_changes_no_gradient(clip_batch, options, parts):
    batch = clip_batch(frames=3, objects=(2, 1))
    gradients = []
    for extra, recomputed in (({}, False), (options, parts)):
        model = toy_sam2(seed=3).train()
        model.set_checkpointing(recomputed)
        unroll = TrainingUnroll(
            simulator=PromptSimulator(point_prob=1.0, num_correction_clicks=2),
            loss=MultiStepMaskLoss(),
            policy=TrackingPolicy(hide_absent=False),
            **extra,
        )
        sum(unroll(model, batch).values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    plain, lean = gradients
    assert plain.keys() == lean.keys() and len(plain) > 100
    for name, gradient in plain.items():
        torch.testing.assert_close(lean[name], gradient, rtol=2e-3, atol=2e-5, msg=name)


def test_a_frozen_encoder_keeps_nothing_for_backward(clip_batch):
    batch = clip_batch(frames=3, objects=(2,))
    held = []
    for trainable in (["sam2"], ["sam2", "!sam2.blocks.vision_encoder"]):
        unroll = unroll_with(MASK_FIRST)
        patterns = [*trainable, "!sam2.blocks.no_memory_positional_encoding"]
        model = Sam2VideoTraining(sam2=toy_sam2(), unroll=unroll, trainable=patterns).train()
        encoder = model.sam2.blocks.vision_encoder
        assert encoder.training == (len(trainable) == 1)
        sizes = []
        hooks = (lambda t, sizes=sizes: sizes.append(t.nbytes) or t, lambda t: t)
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            model.sam2.encode_frames(batch.frames.flatten(0, 1)).embed.sum()
        held.append(sum(sizes))
    # what is left belongs to the decoder's projections of the fine levels
    assert held[1] < 0.1 * held[0]


def test_an_absent_object_trains_nothing_but_its_score(clip_batch):
    model = toy_sam2(seed=3)
    batch = clip_batch(frames=2, objects=(1,))
    batch.masks[1] = False
    losses = unroll_with(MASK_FIRST)(model, batch)
    assert losses["loss_mask"] == losses["loss_dice"] == losses["loss_iou"] == 0
    assert losses["loss_class"] > 0


def test_shrunk_masks_keep_cells_that_are_half_covered():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0, 0] = mask[0, 0, 0, 1] = mask[0, 0, 2, 2] = True
    assert shrink_masks(mask, 2)[0, 0].tolist() == [[True, False], [False, False]]
    assert shrink_masks(mask, 4) is mask


def test_a_few_steps_learn_a_clip(clip_batch):
    """Overfitting one clip: the mask of the tracked frame becomes right."""
    model = toy_sam2(seed=0)
    batch = clip_batch(frames=2, objects=(1,), seed=2)
    unroll = unroll_with(MASK_FIRST, policy=TrackingPolicy(hide_absent=False), resolution="logits")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(20):
        losses = unroll(model, batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert losses["loss_dice"].item() < 0.1


def test_unknown_resolution_is_refused():
    with pytest.raises(ValueError, match="loss_resolution"):
        unroll_with(MASK_FIRST, resolution="half")


def test_plans_come_from_the_smallest_seed(random_sam2, clip_batch):
    """So that the same clips give the same plan however they are spread over ranks."""
    drawn = []

    class Noting(PromptSimulator):
        def plan(self, visible, rng):
            drawn.append(rng.random())
            return for_all_rows(MASK_FIRST, visible)

    unroll = TrainingUnroll(simulator=Noting(), loss=MultiStepMaskLoss())
    batch = clip_batch(frames=2, objects=(1, 1))
    for seeds in ([7, 9], [9, 7], [8, 9]):
        batch.seeds = seeds
        unroll.steps(random_sam2, batch)
    assert drawn[0] == drawn[1] == np.random.default_rng([7, 1]).random() != drawn[2]
