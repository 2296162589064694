"""Accumulated batches add up to the gradients of one large batch, whatever each of them holds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from projects.common.engine.accumulation import share_counts
from projects.common.engine.loop import StepLoop


def gradients(model, batches):
    """As the engines do it: the mean of the batches' gradients."""
    model.zero_grad()
    for batch in batches:
        (sum(model.loss(batch).values()) / len(batches)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_are_those_of_one_batch(build_model, make_sample, collate):
    """2 expressions on 1 frame, 1 on 3 frames, and one without masks: other tokens, other rows."""
    model = build_model().eval()
    samples = [
        make_sample(1, ["red circle", "blue square"]),
        make_sample(2, frames=3),
        make_sample(3, ()),
    ]
    whole = gradients(model, [collate(*samples)])
    parts = [collate(sample) for sample in samples]
    naive = gradients(model, parts)
    share_counts(parts)
    exact = gradients(model, parts)
    assert parts[0].mean_counts["rows"] == pytest.approx((2 + 3 + 0) / 3)
    for name, expected in whole.items():
        torch.testing.assert_close(exact[name], expected, rtol=1e-3, atol=2e-6, msg=name)
    name = "heads.segment.text_hidden_fcs.2.weight"
    assert not torch.allclose(naive[name], whole[name], rtol=0.05)


def test_tasks_of_one_step_share_their_tokens(build_model, make_sample, collate):
    model = build_model().eval()
    segment = make_sample(1, ["red circle", "blue square"])
    chat = make_sample(2, (), task="chat")
    parts = [collate(segment), collate(chat)]
    share_counts(parts)
    losses = [model.loss(part)["loss_language"].item() for part in parts]
    tokens = [int((s.labels[1:] != -100).sum()) for s in (segment, chat)]
    alone = [model.loss(collate(s))["loss_language"].item() for s in (segment, chat)]
    mean = (tokens[0] * alone[0] + tokens[1] * alone[1]) / sum(tokens)
    assert sum(losses) / 2 == pytest.approx(mean, rel=1e-5)


def test_batches_that_do_not_count_are_left_alone(make_sample, collate):
    clip, batch = SimpleNamespace(task="track"), collate(make_sample(1))
    share_counts([clip, batch])
    assert not hasattr(clip, "mean_counts")
    assert batch.mean_counts["rows"] == 0.5


def loop_over(batches, accumulate, start=0):
    sampler = SimpleNamespace(max_steps=len(batches), start_step=0, batch=lambda step: [])

    class Loader(list):
        batch_sampler = sampler
        dataset = None

        def __iter__(self):
            return iter([{"batch": b} for b in batches[sampler.start_step :]])

    runner = SimpleNamespace(logger=None)
    loop = StepLoop(runner=runner, dataloader=Loader(), accumulate=accumulate)
    loop._iter = start
    loop.watchdog = SimpleNamespace(watching=lambda *a: torch.no_grad())
    return loop


@pytest.mark.parametrize("start", [0, 3])
def test_the_loop_counts_over_the_batches_of_a_step(make_sample, collate, start):
    batches = [
        collate(make_sample(i, ["red circle"] * (1 + i % 3), frames=1 + i % 2)) for i in range(6)
    ]
    rows = [batch.loss_counts()["rows"] for batch in batches]
    loop = loop_over(batches, 3, start)
    seen = []
    for data in loop._batches():
        seen.append(data["batch"].mean_counts["rows"])
        loop._iter += 1
    means = [sum(rows[:3]) / 3] * 3 + [sum(rows[3:]) / 3] * 3
    assert seen == pytest.approx(means[start:])
    plain = loop_over([collate(make_sample(1))], 1)
    assert next(plain._batches())["batch"].mean_counts == {}
