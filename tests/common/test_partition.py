"""Parameters that ZeRO-3 has cut over two processes load, are read and change as whole ones."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from projects.common.checkpoint import load_state
from projects.common.engine.checkpoints import frozen_fingerprints
from projects.common.freezing import trainable_table
from projects.common.partition import (
    cast,
    copied,
    cut,
    full_numel,
    full_shape,
    is_cut,
    whole,
)
from tests.engine import group
from tests.engine.group import cutting_as_zero3


def model() -> nn.Module:
    """Odd sizes, that two ranks cannot share evenly, and a single number."""
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 5, dtype=torch.bfloat16))
    module.register_parameter("scale", nn.Parameter(torch.tensor([0.5])))
    module[0].requires_grad_(False)
    return module


def other_state() -> dict[str, torch.Tensor]:
    return {name: value * 2 + 1 for name, value in model().state_dict().items()}


def check() -> None:
    with cutting_as_zero3():
        compare(model(), model())


def compare(module: nn.Module, expected: nn.Module) -> None:
    cut(module.parameters())
    cut(module.parameters())  # a second time changes nothing
    for name, parameter in module.named_parameters():
        plain = expected.get_parameter(name)
        assert is_cut(parameter) and not is_cut(plain)
        assert parameter.numel() == 0 and parameter.ds_tensor.numel() == (plain.numel() + 1) // 2
        assert full_shape(parameter) == full_shape(plain) == plain.shape
        assert full_numel(parameter) == full_numel(plain) == plain.numel()
    assert same(module, expected)
    assert all(parameter.numel() == 0 for parameter in module.parameters())  # cut once more
    twin = copied(module)
    assert not any(is_cut(parameter) for parameter in twin.parameters()) and same(twin, expected)
    assert trainable_table(module) == trainable_table(expected)
    assert frozen_fingerprints(module) == frozen_fingerprints(expected)

    cast(module[1].weight, torch.float32)
    assert module[1].weight.dtype == torch.float32
    expected[1].weight.data = expected[1].weight.data.float()
    assert same(module, expected)

    broken = other_state() | {"0.weight": torch.zeros(7, 3)}
    with pytest.raises(ValueError, match=r"0.weight: \(7, 3\) in the file, \(3, 7\) in the model"):
        load_state(module, broken, where="broken")
    assert same(module, expected)
    load_state(expected, other_state(), where="other")
    given = other_state()  # what another rank reads does not matter
    given = given if dist.get_rank() == 0 else {k: v * 0 for k, v in given.items()}
    report = load_state(module, given, where="other")
    assert len(report.matched) == 5 and not report.missing
    assert same(module, expected)
    assert not torch.equal(expected[0].weight, model()[0].weight)


def same(module: nn.Module, expected: nn.Module) -> bool:
    found = []
    for name, parameter in module.named_parameters():
        with whole([parameter]):
            plain = expected.get_parameter(name)
            found.append(parameter.dtype == plain.dtype and torch.equal(parameter, plain))
    return all(found)


def test_cut_parameters_behave_as_whole_ones():
    group.run(check)


def test_without_zero_nothing_is_cut():
    module = model()
    cut(module.parameters())
    with whole(module.parameters(), write=True):
        assert same(module, model())
