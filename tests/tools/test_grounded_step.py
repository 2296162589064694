"""The bench of the grounded step: its FLOPs against a count by modules of a real forward."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch.nn.functional as F
from torch import nn

from projects.common.engine.config import load_config
from projects.common.engine.model import build_model
from projects.llava_sam2.estimate import Estimate, make_batch, with_pixels
from tools.bench import grounded_step

TOY = Path("projects/llava_sam2/configs/toy.py").resolve()


@contextmanager
def counted_by_hand(model: nn.Module, monkeypatch) -> Iterator[list[int]]:
    """[forward and backward of weights, of attention] of what is called inside, from shapes."""
    total = [0, 0]

    def linear(x, weight, bias=None):
        total[0] += 3 * 2 * x[..., 0].numel() * weight.numel()
        return plain_linear(x, weight, bias)

    def attention(query, key, value, *args, **kwargs):
        total[1] += (2 + 4) * 2 * query.numel() * key.shape[-2]
        return plain_attention(query, key, value, *args, **kwargs)

    def convolution(module, args, out):
        total[0] += 2 * 2 * out[:, 0].numel() * module.weight.numel()  # pixels need no gradient

    plain_linear, plain_attention = F.linear, F.scaled_dot_product_attention
    hooks = [
        m.register_forward_hook(convolution) for m in model.modules() if isinstance(m, nn.Conv2d)
    ]
    with monkeypatch.context() as patch:
        patch.setattr(F, "linear", linear)
        patch.setattr(F, "scaled_dot_product_attention", attention)
        yield total
    for hook in hooks:
        hook.remove()


def test_flops_of_a_conversation(monkeypatch):
    cfg = load_config(TOY)
    cfg.train_dataloader["datasets"] = [
        entry for entry in cfg.train_dataloader["datasets"] if "chat" in str(entry)
    ]
    estimate = Estimate(cfg, task="chat")
    (name, shape), *rest = estimate.shapes.items()
    assert not rest
    model = build_model(estimate.tree, 0).train()
    batch = with_pixels(make_batch(model, shape))
    with counted_by_hand(model, monkeypatch) as total:
        model(batch, mode="loss")
    held = estimate.steps[name]
    assert held.flops == sum(total)
    assert held.recomputed > total[1] / 6  # scores, and what the language loss does in chunks


def test_the_bench_on_a_cpu(tmp_path, monkeypatch):
    out = tmp_path / "step.json"
    options = ["--size", "toy", "--peak-tflops", "0.5", "--warmup", "0", "--repeats", "1"]
    changed = ["train_dataloader.batch_size=1", "optim_wrapper.accumulative_counts=2"]
    arguments = ["grounded_step", *options, "--output", str(out), "--cfg-options", *changed]
    monkeypatch.setattr(sys, "argv", arguments)
    grounded_step.main()
    (row,) = json.loads(out.read_text())["rows"]
    assert row["batch"] == "2 x (segment: 1 x 96 words, 3 tiles, 2 masks on 3 frames)"
    cfg = load_config(TOY, {"train_dataloader.batch_size": 1})
    (held,) = (h for name, h in Estimate(cfg, task="segment").steps.items() if "3 frames" in name)
    assert row["model_TFLOP"] == pytest.approx(2 * held.flops / 1e12)
    assert row["MFU"] == pytest.approx(row["model_TFLOP"] / row["step_s"] / 0.5)
    tokens = 2 * (96 + 3 * 16)
    assert row["tokens_per_s"] == pytest.approx(tokens / row["step_s"])


def test_the_peak_of_a_card():
    assert grounded_step.peak_tflops("NVIDIA H100 80GB HBM3", None) == 989
    assert grounded_step.peak_tflops("NVIDIA H100 PCIe", None) == 756
    assert grounded_step.peak_tflops("NVIDIA H100 PCIe", 700.0) == 700
    with pytest.raises(ValueError, match="--peak-tflops: give what NVIDIA L4 can do"):
        grounded_step.peak_tflops("NVIDIA L4", None)
    with pytest.raises(ValueError, match="no task 'segments'; it has category, chat, segment"):
        Estimate(load_config(TOY), task="segments")
