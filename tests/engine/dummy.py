"""A tiny thing to train: a linear map with dropout and a frozen first layer, on two tasks."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from projects.common.engine.model import TrainableModel
from projects.common.samplers import Draw


@dataclass
class DummyBatch:
    task: str
    names: list[str]
    inputs: Tensor  # [B, 6]
    targets: Tensor  # [B, 1]

    def to(self, device, non_blocking: bool = False) -> DummyBatch:
        inputs = self.inputs.to(device, non_blocking=non_blocking)
        return replace(self, inputs=inputs, targets=self.targets.to(device))


class DummyDataset:
    """Targets are the sum of the inputs (task "sum") or their first (task "first")."""

    def __init__(self, *, task: str, length: int, nan_at: int = -1) -> None:
        self.task = task
        self.length = length
        self.nan_at = nan_at

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw) -> tuple[str, str, np.ndarray, float]:
        values = np.random.default_rng(draw.index).standard_normal(6)
        values += 0.1 * np.random.default_rng(draw.seed).standard_normal(6)
        target = values.sum() if self.task == "sum" else values[0]
        if draw.index == self.nan_at:
            target = float("nan")
        return self.task, f"{self.task}/{draw.index}", values, target


def collate(samples: list) -> DummyBatch:
    return DummyBatch(
        task=samples[0][0],
        names=[sample[1] for sample in samples],
        inputs=torch.tensor(np.stack([s[2] for s in samples]), dtype=torch.float32),
        targets=torch.tensor([[s[3]] for s in samples], dtype=torch.float32),
    )


class DummyModel(TrainableModel):
    """``stall`` is (name, seconds): how long a batch with that sample takes."""

    def __init__(
        self, *, width: int = 8, dropout: float = 0.0, stall: tuple[str, float] | None = None
    ) -> None:
        super().__init__()
        self.stall = stall
        self.frozen = nn.Linear(6, width).requires_grad_(False)
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)
        self.register_buffer("scale", torch.rand(1) + 0.5)

    def loss(self, batch: DummyBatch) -> dict[str, Tensor]:
        if self.stall and self.stall[0] in batch.names:
            time.sleep(self.stall[1])
        hidden = torch.tanh(self.hidden(torch.tanh(self.frozen(batch.inputs))))
        error = self.head(self.dropout(hidden)) * self.scale - batch.targets
        return {"loss_square": error.square().mean(), "error": error.detach().abs().mean()}
