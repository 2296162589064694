"""What a config needs of each GPU, counted before anything runs: ``tools/estimate_memory.py``.

parameters that train or not, ZeRO stage, offload ─► bytes that stay through a step
a step on tensors without contents (fake_step.py) ─► activations, at their peak
                                                     └─► sum ─► which cards it fits, or what to try
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from projects.common import registry
from projects.common.engine.checkpoints import names_to_save
from projects.common.engine.fake_step import Held
from projects.common.freezing import parts

_FLOAT = 4  # bytes: gradients and averages are float32 with every precision
BUCKET = 500_000_000  # DeepSpeed's largest bucket, in elements
GATHERED = 1_000_000_000  # elements that ZeRO-3 keeps gathered at most, its default
RESERVED = 2**30  # bytes of a card that CUDA, its libraries and NCCL take before the first tensor
FRAGMENTS = 0.05  # of the activations: what the allocator cannot use again
CARDS = {"80 GB": 79.1, "40 GB": 39.4, "24 GB": 23.5}  # GiB that a card of that name has
Offload = Literal["none", "optimizer", "all"]
OFFLOADS = ("none", "optimizer", "all")


@dataclass(frozen=True)
class Run:
    """How a config is to be run.

    Attributes:
        gpus: processes.
        zero_stage: of DeepSpeed; 0 is plain data parallelism.
        offload: what lies in the host's memory: ``none``, ``optimizer`` (its state, the gradients
            and weights that it updates) or ``all`` (weights too).
    """

    gpus: int = 1
    zero_stage: int = 0
    offload: Offload = "none"

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ValueError(f"{self.gpus} GPUs: give their number, from 1 on")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"ZeRO has the stages 1, 2 and 3 (0: without), not {self.zero_stage}")
        if self.offload not in OFFLOADS:
            raise ValueError(f"offload {self.offload!r} is none of {', '.join(OFFLOADS)}")
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError("offload 'all' moves weights to the host, which takes ZeRO-3")
        if self.offload == "optimizer" and self.zero_stage < 2:
            raise ValueError("offload 'optimizer' takes ZeRO-2 or 3")

    def __str__(self) -> str:
        name = f"ZeRO-{self.zero_stage}" if self.zero_stage else "data parallelism"
        moved = "" if self.offload == "none" else f", offload of {self.offload}"
        return f"{name} on {self.gpus}{moved}"


@dataclass(frozen=True)
class Needs:
    """Bytes per GPU.

    Attributes:
        parameters, trainable: numbers of the model.
        stays: what stays through a step, by what it is.
        steps: activations of each kind of batch.
        host: bytes that each process keeps in the host's memory.
        parts: what goes with the parameters of each part, see :func:`shares`.
    """

    run: Run
    parameters: int
    trainable: int
    stays: Mapping[str, int]
    steps: Mapping[str, Held]
    host: int
    parts: Mapping[str, Mapping[str, float]]

    @property
    def activations(self) -> int:
        return max((held.peak for held in self.steps.values()), default=0)

    @property
    def total(self) -> int:
        """With what the card and its allocator take beside tensors."""
        return round(sum(self.stays.values()) + self.activations * (1 + FRAGMENTS)) + RESERVED

    def fits(self, card: str) -> bool:
        return self.total <= CARDS[card] * 2**30


def needs(
    model: nn.Module, steps: Mapping[str, Held], run: Run, *, optimizer: Mapping, ema: bool
) -> Needs:
    """What a run needs.

    Args:
        model: its ``requires_grad`` say what trains; tensors may be without contents.
        steps: of ``fake_step``, by what is in the batch.
        optimizer: its config.
        ema: whether the run averages its weights.
    """
    state = optimizer_bytes(optimizer)
    stays = training_bytes(
        model,
        state_per_element=state,
        gpus=run.gpus,
        zero_stage=run.zero_stage,
        ema=ema,
        offload=run.offload,
    )
    everything = training_bytes(
        model, state_per_element=state, gpus=run.gpus, zero_stage=run.zero_stage, ema=ema
    )
    host = sum(everything[name] - stays[name] for name in everything)
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    by_part = {
        part: shares(kept, run, state_per_element=state) for part, kept in parts(model).items()
    }
    return Needs(run, parameters, trainable, stays, dict(steps), host, by_part)


def training_bytes(
    model: nn.Module,
    *,
    state_per_element: float,
    gpus: int,
    zero_stage: int,
    ema: bool,
    offload: Offload = "none",
) -> dict[str, int]:
    """Bytes per GPU that stay through a step, by what they are.

    Args:
        model: its ``requires_grad`` say what trains.
        state_per_element: bytes of optimizer state of one trainable number.
        gpus, zero_stage, ema, offload: of the run.
    """
    elements = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    run = Run(gpus, zero_stage, offload)
    sizes = shares(model.parameters(), run, state_per_element=state_per_element)
    sizes = {"weights, buffers": sizes.pop("weights") + buffers, **sizes}
    if zero_stage:
        sizes["gradient buckets"] = 2 * min(trainable, BUCKET) * _FLOAT  # two, to overlap
    elif gpus > 1:
        sizes["gradient buckets"] = trainable * _FLOAT
    if zero_stage == 3:
        sizes["gathered weights"] = stored * min(1, GATHERED / max(elements, 1))
    if ema:
        sizes["average"] = trainable * _FLOAT
    return {name: round(size) for name, size in sizes.items()}


def shares(
    parameters: Iterable[nn.Parameter], run: Run, *, state_per_element: float
) -> dict[str, float]:
    """Bytes per GPU that go with some parameters of a model, and add up over its parts.

    ZeRO-1 shares the optimizer's state, and its copy of the weights; ZeRO-2 gradients too (stage 1
    keeps them whole until backward has ended), ZeRO-3 weights too (Rajbhandari et al., 2020).
    """
    kept = list(parameters)
    updated = sum(p.numel() for p in kept if p.requires_grad)
    stored = sum(p.numel() * p.element_size() for p in kept)
    first, second, third = (run.gpus if run.zero_stage >= stage else 1 for stage in (1, 2, 3))
    sizes = {
        "weights": 0 if run.offload == "all" else stored / third,
        "gradients": updated * _FLOAT / second,
        "optimizer state": updated * state_per_element / first,
    }
    if run.zero_stage:
        sizes["own share, float32"] = updated * _FLOAT / first  # what the optimizer updates
    if run.offload != "none":
        sizes |= dict.fromkeys(("gradients", "optimizer state", "own share, float32"), 0)
    return sizes


def optimizer_bytes(config: Mapping[str, Any]) -> float:
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
