"""From ``train_dataloader`` to batches.

[{dataset, repeat}, ...] -> Mixture <- Draws of StepBatchSampler -> collate -> {"batch": batch}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from projects.common import registry
from projects.common.samplers import Draw, StepBatchSampler, epoch_steps


class Mixture(Dataset):
    """Several datasets, read by :class:`Draw`."""

    def __init__(self, datasets: Sequence[Any]) -> None:
        self.datasets = list(datasets)

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets)

    def __getitem__(self, draw: Draw) -> Any:
        return self.datasets[draw.dataset][draw]


class WrappedCollate:
    """Names the batch, because mmengine passes a dict's entries to ``forward`` as keywords."""

    def __init__(self, collate: Callable[[list], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list) -> dict[str, Any]:
        return {"batch": self.collate(samples)}


def build_train_loader(
    *,
    datasets: Sequence[dict],
    batch_size: int,
    collate: Any,
    max_steps: int | None,
    max_epochs: float | None,
    seed: int,
    rank: int,
    world_size: int,
    num_workers: int = 0,
    multiple_of: int = 1,
) -> DataLoader:
    """Build datasets and loader; ``loader.batch_sampler.max_steps`` says how long the run is.

    Args:
        datasets: ``[{"dataset": config, "repeat": 1.0, "batch_size": 2}, ...]``; the last two may
            be left out.
        batch_size: samples per rank and step of datasets that name none.
        collate: function of a list of samples to a typed batch, its path or its config.
        max_steps, max_epochs: exactly one of them. Epochs are counted over all datasets together,
            each as often as its repeat says, and become the steps that complete them.
        multiple_of: the number of steps is rounded up to a multiple of this when it comes from
            ``max_epochs``, so that accumulated gradients are never left over.
    """
    built = [registry.build(entry["dataset"]) for entry in datasets]
    lengths = [len(dataset) for dataset in built]
    repeats = [float(entry.get("repeat", 1.0)) for entry in datasets]
    sizes = [int(entry.get("batch_size", batch_size)) for entry in datasets]
    if max_steps is None:
        assert max_epochs is not None
        epoch = epoch_steps(lengths, repeats, [size * world_size for size in sizes])
        updates = Fraction(str(max_epochs)) * epoch / multiple_of
        max_steps = ceil(updates) * multiple_of
    sampler = StepBatchSampler(
        lengths=lengths,
        repeats=repeats,
        tasks=[dataset.task for dataset in built],
        batch_size=batch_size,
        seed=seed,
        max_steps=max_steps,
        rank=rank,
        world_size=world_size,
        batch_sizes=sizes,
    )
    return DataLoader(
        Mixture(built),
        batch_sampler=sampler,
        collate_fn=WrappedCollate(_build_collate(collate)),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),  # typed batches pin their own tensors
        worker_init_fn=_one_thread if num_workers else None,
    )


def _build_collate(collate: Any) -> Callable[[list], Any]:
    return registry.build(collate) if isinstance(collate, dict) else registry.resolve(collate)


def _one_thread(worker: int) -> None:
    """Workers share the cores with the training; each keeps to one."""
    torch.set_num_threads(1)
