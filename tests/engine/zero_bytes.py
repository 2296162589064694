"""What DeepSpeed holds on one rank for a tiny model, after backward and after the step.

python -m tests.engine.zero_bytes NAME OUT      (started by test_memory.py on two processes)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

WIDTH = 64


def build() -> nn.Module:
    """Weights that two ranks share evenly, so that no padding is counted."""
    frozen = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
    return nn.Sequential(frozen, *(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3)))


def main() -> None:
    import deepspeed

    from projects.common.engine.distributed import get_rank, init_distributed
    from projects.common.engine.zero import complete_config, named_config

    name, out = sys.argv[1:]
    init_distributed("pytorch", always=True)
    config = complete_config(named_config(name), batch_size=2, accumulate=1, max_norm=0.0)
    config["zero_optimization"]["reduce_bucket_size"] = 10_000
    config["zero_force_ds_cpu_optimizer"] = False
    config["zero_allow_untested_optimizer"] = True
    # smaller parameters than this would stay whole on every rank
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    model = build()
    trained = [p for p in model.parameters() if p.requires_grad]
    engine, optimizer, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(trained, lr=0.1), config=config
    )
    during = _watch_gradients(trained)
    engine.backward(engine(torch.ones(2, WIDTH)).square().mean())
    stage = config["zero_optimization"]["stage"]
    gradients = max(during) if stage == 1 else _gradients(optimizer, trained)
    held = {"weights, buffers": _weights(model), "gradients": gradients}
    engine.step()
    held["optimizer state"] = _state(optimizer.optimizer)
    held["own share, float32"] = _own(optimizer)
    Path(f"{out}.{get_rank()}").write_text(json.dumps(held))


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _weights(model: nn.Module) -> int:
    return _bytes(getattr(p, "ds_tensor", p) for p in model.parameters())


def _watch_gradients(trained: list[nn.Parameter]) -> list[int]:
    """Filled by backward: bytes of whole gradients, whenever there is one more."""
    seen: list[int] = []
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(
            lambda _: seen.append(_bytes(p.grad for p in trained if p.grad is not None))
        )
    return seen


def _gradients(optimizer: Any, trained: list[nn.Parameter]) -> int:
    """The averaged share of this rank."""
    if hasattr(optimizer, "averaged_gradients") and optimizer.averaged_gradients:
        kept = (g for group in optimizer.averaged_gradients.values() for g in group or ())
        return _bytes(gradient for gradient in kept if gradient is not None)
    if hasattr(optimizer, "grad_partitions_flat_buffer"):
        return _bytes([optimizer.grad_partitions_flat_buffer])
    return _bytes(p.grad for p in trained if p.grad is not None)


def _state(optimizer: torch.optim.Optimizer) -> int:
    kept = (v for state in optimizer.state.values() for v in state.values())
    return _bytes(value for value in kept if torch.is_tensor(value) and value.numel() > 1)


def _own(optimizer: Any) -> int:
    names = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
    return _bytes(next(getattr(optimizer, name) for name in names if hasattr(optimizer, name)))


if __name__ == "__main__":
    main()
