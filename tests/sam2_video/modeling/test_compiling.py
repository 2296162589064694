"""torch.compile is a switch: where it fails, the model says so once and goes on uncompiled."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from projects.sam2_video.modeling import compiling
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
