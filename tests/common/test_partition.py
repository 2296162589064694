"""Parameters that ZeRO-3 has cut over two processes load, are read and change as whole ones."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

from projects.common.checkpoint import load_state
from projects.common.engine.checkpoints import frozen_fingerprints
from projects.common.engine.distributed import free_port
from projects.common.freezing import trainable_table
from projects.common.partition import cast, cut, cutting, full_numel, full_shape, is_cut, whole
from tests.engine import processes


def model() -> nn.Module:
    """Odd sizes, that two ranks cannot share evenly, and a single number."""
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 5, dtype=torch.bfloat16))
    module.register_parameter("scale", nn.Parameter(torch.tensor([0.5])))
    module[0].requires_grad_(False)
    return module


def other_state() -> dict[str, torch.Tensor]:
    return {name: value * 2 + 1 for name, value in model().state_dict().items()}


def worker(rank: int, port: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", DS_ACCELERATOR="cpu")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    from projects.common.engine.zero import complete_config, make_cutter, named_config

    config = complete_config(
        named_config("deepspeed_zero3"), batch_size=1, accumulate=1, max_norm=0.0
    )
    try:
        with cutting(make_cutter(config)):
            check(model())
    finally:
        dist.destroy_process_group()


def check(module: nn.Module) -> None:
    expected = model()
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
    for target in (module, expected):
        report = load_state(target, other_state(), where="other")
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
    processes.run(worker, free_port())


def test_without_zero_nothing_is_cut():
    module = model()
    cut(module.parameters())
    with whole(module.parameters(), write=True):
        assert same(module, model())
