"""Declared freezing and LoRA on a small two-part model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from projects.common import freezing


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return x + self.dropout(self.o_proj(torch.tanh(self.q_proj(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(Block(4), Block(4))
        self.decoder = Block(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.decoder(self.encoder(x)))

    def train(self, mode=True):
        super().train(mode)
        freezing.keep_frozen_in_eval(self)
        return self


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_patterns_are_modules_globs_and_exceptions_in_order(model):
    names = freezing.set_trainable(model, ["encoder", "!encoder.0", "*.q_proj.bias"])
    expected = {f"encoder.1.{p}_proj.{w}" for p in "qo" for w in ("weight", "bias")}
    expected |= {"encoder.0.q_proj.bias", "decoder.q_proj.bias"}
    assert trainable(model) == set(names) == expected
    assert names == [n for n, _ in model.named_parameters() if n in expected]  # model order
    assert freezing.set_trainable(model, []) == [] and trainable(model) == set()


def test_a_module_name_is_not_a_prefix_of_another(model):
    model.head2 = nn.Linear(2, 2)
    assert freezing.set_trainable(model, ["head"]) == ["head.weight", "head.bias"]


@pytest.mark.parametrize("pattern", ["decodr.q_proj", "!decodr.q_proj", "decoder.q_prj.*"])
def test_a_pattern_that_matches_nothing_lists_near_names(model, pattern):
    with pytest.raises(ValueError, match=r"matches no parameter; near names: .*decoder\.q_proj"):
        freezing.set_trainable(model, ["head", pattern])


def test_frozen_parts_stay_in_eval_after_train(model):
    freezing.set_trainable(model, ["decoder.q_proj", "head"])
    model.train()
    assert not any(m.training for m in model.encoder.modules())
    assert model.decoder.training and model.decoder.dropout.training and model.head.training
    assert not model.decoder.o_proj.training
    x = torch.randn(64, 4)
    assert torch.equal(model.encoder(x), model.encoder(x))  # dropout is off
    assert not torch.equal(model.decoder(x), model.decoder(x))  # and on where something trains


def test_frozen_parts_run_outside_autograd(model):
    freezing.set_trainable(model, ["head"])
    x = torch.randn(2, 4, requires_grad=True)
    with freezing.grad_if_trainable(model.encoder):
        assert not model.encoder(x).requires_grad
    with freezing.grad_if_trainable(model.head):
        assert model.head(x).requires_grad
    with torch.no_grad(), freezing.grad_if_trainable(model.head):
        assert not model.head(x).requires_grad  # never switches autograd on by itself


def test_lora_adapts_its_targets_only_and_starts_as_identity(model):
    model.eval()
    x = torch.randn(3, 4)
    before = model(x)
    adapted = freezing.add_lora(model, rank=2, alpha=4, targets=["encoder.*.q_proj", "o_proj"])
    assert adapted == ["encoder.0.q_proj", "encoder.0.o_proj", "encoder.1.q_proj"] + [
        "encoder.1.o_proj",
        "decoder.o_proj",
    ]
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    freezing.set_trainable(model, ["*.lora_A.*", "*.lora_B.*", "head"])
    model(x).sum().backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None}
    assert got == trainable(model) and len(got) == 2 * len(adapted) + 2
    a = model.encoder[0].q_proj.lora_A["default"].weight
    assert a.shape == (2, 4)


def test_merged_lora_gives_the_same_outputs_with_plain_layers(model):
    model.eval()
    plain = {name for name, _ in model.named_parameters()}
    freezing.add_lora(model, rank=2, alpha=4, dropout=0.3, targets=["q_proj"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.eval()
    x = torch.randn(3, 4)
    adapted = model(x)
    base = model.decoder.q_proj.base_layer.weight.clone()
    a = model.decoder.q_proj.lora_A["default"].weight
    b = model.decoder.q_proj.lora_B["default"].weight
    assert freezing.merge_lora(model) == 3
    assert {name for name, _ in model.named_parameters()} == plain
    torch.testing.assert_close(model(x), adapted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.decoder.q_proj.weight, base + 4 / 2 * b @ a)
    with pytest.raises(ValueError, match="no LoRA layer"):
        freezing.merge_lora(model)


@pytest.mark.parametrize("wanted", [None, torch.float32])
def test_lora_is_folded_in_float32_and_rounded_once(wanted):
    torch.manual_seed(1)
    model = Block(64).to(torch.bfloat16)
    freezing.add_lora(model, rank=8, alpha=16, targets=["q_proj"])
    layer = model.q_proj
    with torch.no_grad():
        for parameter in (layer.lora_A["default"].weight, layer.lora_B["default"].weight):
            parameter.data = torch.randn(parameter.shape) * 0.03  # as in training: float32
    base = layer.base_layer.weight.detach().clone()
    product = layer.lora_B["default"].weight.detach() @ layer.lora_A["default"].weight.detach()
    exact = base.double() + 16 / 8 * product.double()
    twice = base + (16 / 8 * product).to(torch.bfloat16)  # rounded before and after
    assert freezing.merge_lora(model, dtype=wanted) == 1
    assert model.q_proj.weight.dtype == (wanted or torch.bfloat16)
    torch.testing.assert_close(model.q_proj.weight, exact.float().to(wanted or torch.bfloat16))
    assert not torch.equal(twice.float(), exact.float().to(torch.bfloat16).float())


def test_a_merge_that_is_not_finite_is_refused_by_name(model):
    freezing.add_lora(model, rank=2, alpha=4, targets=["q_proj"])
    model.decoder.q_proj.lora_B["default"].weight.data.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"merging LoRA into decoder\.q_proj"):
        freezing.merge_lora(model)


@pytest.mark.parametrize("target", ["k_proj", "decoder.dropout", "proj"])
def test_lora_target_that_matches_nothing(model, target):
    with pytest.raises(ValueError, match=f"LoRA target '{target}' matches no linear layer"):
        freezing.add_lora(model, rank=2, alpha=4, targets=["q_proj", target])
    assert not any("lora" in name for name, _ in model.named_parameters())  # nothing half done


def test_table_counts(model):
    freezing.set_trainable(model, ["decoder.q_proj", "head"])
    rows = [line.split() for line in freezing.trainable_table(model).splitlines()]
    assert rows == [
        ["part", "trainable", "frozen", "total"],
        ["encoder", "0", "80", "80"],
        ["decoder", "20", "20", "40"],
        ["head", "10", "0", "10"],
        ["total", "30", "100", "130"],
    ]
    assert "encoder.1" in freezing.trainable_table(model, depth=2)
    # a model that is all of another is told apart below what its names share
    inner = nn.Module()
    inner.blocks = model
    outer = nn.Module()
    outer.net = inner
    parts = [line.split()[0] for line in freezing.trainable_table(outer).splitlines()]
    assert parts[1:] == ["net.blocks.encoder", "net.blocks.decoder", "net.blocks.head", "total"]
