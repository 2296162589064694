"""A benchmark of the dummy task: the error of each item."""

from __future__ import annotations

from typing import Any

import torch

from projects.common.samplers import Draw
from tests.engine.dummy import DummyDataset, DummyModel, collate


class DummyBenchmark:
    def __init__(self, *, dataset: DummyDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def predict(self, model: DummyModel, index: int) -> list[dict[str, Any]]:
        batch = collate([self.dataset[Draw(0, index, 0)]])
        with torch.no_grad():
            return [{"index": index, "error": model.loss(batch)["error"].item()}]

    def summarise(self, records: list[dict[str, Any]]) -> dict[str, float]:
        return {"error": sum(record["error"] for record in records) / len(records)}
