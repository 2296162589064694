"""The chunked language loss against the plain one over all positions."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from projects.llava_sam2.models import language_loss as module
from projects.llava_sam2.models.language_loss import LanguageLoss

WIDTH, VOCABULARY = 6, 50


@pytest.fixture
def head():
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCABULARY, bias=False).double()


def batch(lengths=(7, 11), supervised=0.6):
    """Hidden states [B, L, D] and labels [B, L] with gaps, and padding behind."""
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(len(lengths), max(lengths), WIDTH, generator=draw, dtype=torch.double)
    labels = torch.randint(0, VOCABULARY, hidden.shape[:2], generator=draw)
    labels[torch.rand(hidden.shape[:2], generator=draw) > supervised] = -100
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
    return hidden, labels


def plain(head, hidden, labels):
    """The straightforward way: all logits of all positions, shifted."""
    logits = head(hidden)[:, :-1].reshape(-1, VOCABULARY)
    return F.cross_entropy(logits, labels[:, 1:].reshape(-1), ignore_index=-100)


def gathered(hidden, labels):
    supervised = labels[:, 1:] != -100
    return hidden[:, :-1][supervised], labels[:, 1:][supervised]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_value_and_gradients_are_those_of_the_plain_loss(head, size):
    hidden, labels = batch()
    results = []
    for compute in (
        lambda h: plain(head, h, labels),
        lambda h: LanguageLoss(tokens_per_chunk=size)(head, *gathered(h, labels)),
    ):
        states = hidden.clone().requires_grad_()
        loss = compute(states)
        results.append([loss, *torch.autograd.grad(loss, [states, head.weight])])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-8)


def test_logits_of_two_chunks_are_never_there_together_nor_kept(head):
    hidden, labels = batch()
    shapes, kept = [], []
    head.register_forward_hook(lambda m, args, out: shapes.append(out.shape[0]))
    states, targets = gathered(hidden.requires_grad_(), labels)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        loss = LanguageLoss(tokens_per_chunk=4)(head, states, targets)
    assert sum(shapes) == len(targets) and max(shapes) <= 4 and len(shapes) > 2
    assert not [shape for shape in kept if shape[-1:] == (VOCABULARY,)]
    forward = list(shapes)
    loss.backward()
    assert sorted(shapes[len(forward) :]) == sorted(forward)  # each once more, in backward


def test_nothing_supervised_is_zero_with_a_gradient_of_zeros(head):
    hidden, labels = batch()
    hidden.requires_grad_()
    states, targets = gathered(hidden, torch.full_like(labels, -100))
    loss = LanguageLoss()(head, states, targets)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None and not hidden.grad.any()
    assert head.weight.grad is not None and not head.weight.grad.any()


@pytest.mark.parametrize("supervised", [0.0, 0.6])
def test_a_rank_calls_lm_head_as_often_as_the_one_with_most_tokens(head, monkeypatch, supervised):
    """ZeRO-3 gathers its weights in each call: a rank that calls less often would hang the rest."""
    monkeypatch.setattr(module, "most_over_ranks", lambda count, device: 17)
    calls = []
    head.register_forward_hook(lambda m, args, out: calls.append(len(out)))
    hidden, labels = batch(supervised=supervised)
    expected = plain(head, hidden, labels) if supervised else torch.zeros(())
    calls.clear()
    loss = LanguageLoss(tokens_per_chunk=4)(head, *gathered(hidden.requires_grad_(), labels))
    loss.backward()
    assert len(calls) == 2 * 5
    assert loss.item() == pytest.approx(expected.item())


def test_where_gradients_accumulate_the_count_is_given(head):
    hidden, labels = batch()
    states, targets = gathered(hidden, labels)
    loss = LanguageLoss()(head, states, targets, mean_count=40.0)
    expected = plain(head, hidden, labels) * len(targets) / 40
    assert loss.item() == pytest.approx(expected.item())


def test_the_fused_kernel_is_asked_for_the_same_sum(head, monkeypatch):
    class Kernel(nn.Module):  # the signature of liger-kernel
        def __init__(self, reduction):
            super().__init__()
            self.reduction = reduction

        def forward(self, lin_weight, _input, target, bias=None):
            assert bias is None
            return F.cross_entropy(_input @ lin_weight.T, target, reduction=self.reduction)

    package = types.ModuleType("liger_kernel.transformers")
    package.LigerFusedLinearCrossEntropyLoss = Kernel
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    hidden, labels = batch()
    states, targets = gathered(hidden, labels)
    got = module.fused_cross_entropy(head, states, targets)
    assert got.item() == pytest.approx(plain(head, hidden, labels).item() * len(targets))
    assert module.fused_cross_entropy(head, states[:0], targets[:0]).item() == 0


def test_settings_that_cannot_be(monkeypatch):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LanguageLoss(tokens_per_chunk=0)
    monkeypatch.setattr(module, "liger_installed", lambda: False)
    with pytest.raises(ValueError, match="liger-kernel, which is not installed"):
        LanguageLoss(fused=True)
