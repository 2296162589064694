"""torch.compile is a switch: where it fails, the model says so once and goes on uncompiled."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from projects.sam2_video.modeling import compiling
from projects.sam2_video.modeling.memory_attention import _turn
from projects.sam2_video.toy import toy_sam2


def failing_compile(function):
    def compiled(*args, **kwargs):
        raise TorchDynamoException("no compiler found\nmore lines")

    return compiled


def test_a_failing_compiler_leaves_one_message_and_the_same_features(monkeypatch, caplog):
    model = toy_sam2(seed=0).eval()
    frames = torch.randint(0, 255, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.encode_frames(frames).embed
        monkeypatch.setattr(torch, "compile", failing_compile)
        monkeypatch.setattr(compiling, "compiler_works", lambda device: True)
        monkeypatch.setattr("projects.sam2_video.modeling.blocks.compiler_works", lambda d: True)
        model.compile_parts()
        with caplog.at_level(logging.WARNING):
            got = [model.encode_frames(frames).embed for _ in range(3)]
    assert all(torch.equal(each, expected) for each in got)
    assert [record.message for record in caplog.records] == [
        "torch.compile failed on the image encoder, it runs uncompiled: no compiler found"
    ]


def test_without_a_compiler_nothing_is_compiled(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", failing_compile)
    model = toy_sam2(seed=0)
    before = model._run_hiera, model._attend
    with caplog.at_level(logging.WARNING):
        model.compile_parts()
    assert (model._run_hiera, model._attend) == before
    assert "runs uncompiled: no compiler found" in caplog.text


def test_mistakes_of_the_caller_are_not_taken_for_a_failing_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)

    def refuses(x):
        raise ValueError("frames must be square")

    with pytest.raises(ValueError, match="square"):
        compiling.Compiled(refuses, name="encoder")(1)


@pytest.fixture
def graphs(monkeypatch):
    """Traces as the compiler does, and runs the graph as it is: code for a toy takes minutes."""
    torch._dynamo.reset()
    compile_, traced = torch.compile, []

    def backend(module, inputs):
        traced.append(module)
        return module

    monkeypatch.setattr(torch, "compile", partial(compile_, backend=backend))
    yield traced
    torch._dynamo.reset()


def losses_and_gradients(model, frames):
    """Two memories and two pointers for the rows of a clip of so many frames."""
    generator = torch.Generator().manual_seed(frames)
    images = torch.randint(0, 256, (frames, 3, 96, 96), generator=generator).to(torch.uint8)
    memories = [(slot, torch.randn(2, 64, 12, 12, generator=generator)) for slot in (6, 0)]
    pointers = [(offset, torch.randn(2, 64, generator=generator)) for offset in range(1, frames)]
    weight = torch.randn(2, 64, 12, 12, generator=generator)
    model.zero_grad()
    features = model.encode_frames(images)
    embed = features.embed[torch.tensor([0, -1])]
    loss = (model.attend_memory(embed, memories, pointers, span=8) * weight).sum()
    loss = loss + sum(level.square().mean() for level in features.high_res)
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


def test_compiled_parts_learn_the_same_whatever_the_number_of_frames(graphs):
    model = toy_sam2(seed=0).train()
    model.set_checkpointing(True)
    counts = (1, 2, 4, 3, 7)
    expected = {count: losses_and_gradients(model, count) for count in counts}
    model.compile_parts()
    seen = []
    for count in counts:
        loss, grads = losses_and_gradients(model, count)
        torch.testing.assert_close(loss, expected[count][0], rtol=1e-5, atol=0)
        assert grads.keys() == expected[count][1].keys()
        for name, gradient in grads.items():
            wanted = expected[count][1][name]
            assert (gradient - wanted).norm() <= 1e-4 * wanted.norm() + 1e-7, name
        seen.append(len(graphs))
    # once for each part, once more when its sizes turn out to change, and never again
    assert seen[0] >= 2 and seen[2] == seen[-1] <= 2 * seen[0] + 1


def test_the_compiler_turns_pairs_as_complex_numbers_do(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(2, 1, 3, 36, 5, 2, generator=generator)
    angles = 6 * torch.rand(36, 5, generator=generator)
    table = torch.stack((angles.cos(), angles.sin()), dim=-1)
    expected = _turn(pairs, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(_turn(pairs, table), expected)
