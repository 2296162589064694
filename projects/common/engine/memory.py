"""What a config needs of each GPU, before it runs there: ``tools/train.py --estimate-memory``.

Weights, gradients and optimizer state are counted; activations depend on the data, so where there
is a GPU one step is run on it and its peak is measured.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from projects.common import registry
from projects.common.engine.checkpoints import names_to_save
from projects.common.engine.config import check_config, plain
from projects.common.engine.loader import build_train_loader
from projects.common.engine.model import TrainableModel, build_model
from projects.common.freezing import trainable_table

_FLOAT = 4  # bytes: weights, gradients and averages are float32 with every precision
BUCKET = 500_000_000  # DeepSpeed's largest bucket, in elements


def estimate_memory(cfg: Config, *, gpus: int, zero_stage: int) -> str:
    """A report: parameters per part, bytes per GPU, size of a checkpoint, measured peak.

    Args:
        cfg: of ``load_config``.
        gpus: processes of the run.
        zero_stage: of DeepSpeed; 0 is plain data parallelism.

    Raises:
        ValueError: mistakes in the config.
    """
    tree = plain(cfg)
    check_config(tree, zero_stage=zero_stage)
    model = build_model(tree, int(tree.get("seed", 0)))
    run: dict[str, Any] = {
        "state_per_element": _optimizer_state(tree["optim_wrapper"]["optimizer"]),
        "zero_stage": zero_stage,
        "ema": tree.get("ema") is not None,
    }
    sizes = training_bytes(model, gpus=gpus, **run)
    launcher = f"ZeRO-{zero_stage}" if zero_stage else "data parallelism"
    lines = [trainable_table(model), "", f"per GPU, {launcher} on {gpus}:"]
    lines += [f"  {name:<18}{_readable(size):>12}" for name, size in sizes.items()]
    lines.append(f"  {'sum':<18}{_readable(sum(sizes.values())):>12}  and activations")
    lines.append(f"a checkpoint: {_readable(checkpoint_bytes(model, **run))}")
    if torch.cuda.is_available():
        peak = _measure_step(tree, model)
        lines.append(
            f"one step on this GPU (weights, gradients, activations): peak {_readable(peak)}; "
            f"add optimizer state, average and buckets: {_readable(peak + _beside_step(sizes))}"
        )
    else:
        lines.append("activations: no GPU here to measure them on")
    return "\n".join(lines)


def training_bytes(
    model: nn.Module, *, state_per_element: float, gpus: int, zero_stage: int, ema: bool
) -> dict[str, int]:
    """Bytes per GPU that stay through a step, by what they are.

    Args:
        model: its ``requires_grad`` say what trains.
        state_per_element: bytes of optimizer state of one trainable number.
        gpus, zero_stage, ema: of the run.
    """
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    weights = stored / gpus if zero_stage == 3 else stored
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    gradients = trainable * _FLOAT
    sizes = {
        "weights, buffers": weights + buffers,
        "gradients": gradients / gpus if zero_stage >= 2 else gradients,
        "optimizer state": trainable * state_per_element / (gpus if zero_stage else 1),
    }
    if zero_stage:
        sizes["own share, float32"] = trainable * _FLOAT / gpus  # what the optimizer updates
        sizes["gradient buckets"] = 2 * min(trainable, BUCKET) * _FLOAT  # two, to overlap
    elif gpus > 1:
        sizes["gradient buckets"] = gradients
    if ema:
        sizes["average"] = trainable * _FLOAT
    return {name: round(size) for name, size in sizes.items()}


def _optimizer_state(config: dict[str, Any]) -> float:
    """Bytes of state of one number, found by a step of that optimizer on a small tensor."""
    probe = nn.Parameter(torch.zeros(64, 64))
    settings = {key: value for key, value in config.items() if key != "type"}
    optimizer = registry.resolve(config["type"])([probe], **copy.deepcopy(settings))
    probe.grad = torch.ones_like(probe)
    optimizer.step()
    state = optimizer.state[probe].values()
    held = sum(v.numel() * v.element_size() for v in state if isinstance(v, torch.Tensor))
    return held // probe.numel()  # a step count of a few bytes belongs to no element


def checkpoint_bytes(
    model: nn.Module, *, state_per_element: float, zero_stage: int, ema: bool
) -> int:
    """Size of a checkpoint folder; arguments as of :func:`training_bytes`."""
    tensors = model.state_dict()
    weights = sum(tensors[n].numel() * tensors[n].element_size() for n in names_to_save(model))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    own_copies = {0: 0, 3: 1}.get(zero_stage, 2)  # DeepSpeed's shards hold the weights as well
    per_element = state_per_element + own_copies * _FLOAT
    return round(weights * (2 if ema else 1) + trainable * per_element)


def _beside_step(sizes: dict[str, int]) -> int:
    in_step = ("weights, buffers", "gradients")
    return sum(size for name, size in sizes.items() if name not in in_step)


def _measure_step(tree: dict[str, Any], model: TrainableModel) -> int:
    """Peak bytes of a forward and backward pass of the run's first batch."""
    loader = build_train_loader(
        **{**tree["train_dataloader"], "num_workers": 0},
        max_steps=1,
        max_epochs=None,
        seed=int(tree.get("seed", 0)),
        rank=0,
        world_size=1,
    )
    model.cuda().train()
    torch.cuda.reset_peak_memory_stats()
    losses = model(**model.data_preprocessor(next(iter(loader)), True), mode="loss")
    model.parse_losses(losses)[0].backward()
    return torch.cuda.max_memory_allocated()


def _readable(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
