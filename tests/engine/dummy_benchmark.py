"""A benchmark of the dummy task: the error of each item."""

from __future__ import annotations

from typing import Any

import torch

from projects.common.samplers import Draw
from tests.engine.dummy import DummyDataset, DummyModel, collate


class DummyBenchmark:
    metrics = ("error",)

    def __init__(self, *, dataset: DummyDataset, fail_at: int = -1) -> None:
        self.dataset = dataset
        self.fail_at = fail_at

    def __len__(self) -> int:
        return len(self.dataset)

    def predict(self, model: DummyModel, index: int) -> list[dict[str, Any]]:
        if index == self.fail_at:
            raise OSError(f"item {index} cannot be read")
        torch.rand(7)  # a benchmark that draws numbers must not disturb the training
        batch = collate([self.dataset[Draw(0, index, 0)]])
        with torch.no_grad():
            return [{"index": index, "error": model.loss(batch)["error"].item()}]

    def summarise(self, records: list[dict[str, Any]]) -> dict[str, float]:
        return {"error": sum(record["error"] for record in records) / len(records)}
