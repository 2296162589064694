"""From ``train_dataloader`` to batches.

[{dataset, repeat}, ...] -> Mixture <- Draws of StepBatchSampler -> collate -> {"batch": batch}

Entries of one task and batch size are mixed within a batch; ``on_read_error`` says what becomes of
a sample that cannot be read (``projects.common.reading``).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

import torch
from torch.utils.data import DataLoader

from projects.common import registry
from projects.common.reading import Mixture
from projects.common.samplers import LengthOf, StepBatchSampler, epoch_steps, repeats_of_weights


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
    on_read_error: str = "error",
    group_by_length: bool = False,
) -> DataLoader:
    """Build datasets and loader; ``loader.batch_sampler.max_steps`` says how long the run is.

    Args:
        datasets: ``[{"dataset": config, "name": "mevis", "repeat": 1.0, "batch_size": 2}, ...]``;
            all but the first may be left out. ``weight`` in place of ``repeat``, then in every
            entry, draws in proportion to the weights, however large the datasets are.
        batch_size: samples per rank and step of datasets that name none.
        collate: function of a list of samples to a typed batch, its path or its config.
        max_steps, max_epochs: exactly one of them. Epochs are counted over all datasets together,
            each as often as its repeat says, and become the steps that complete them.
        multiple_of: the number of steps is rounded up to a multiple of this when it comes from
            ``max_epochs``, so that accumulated gradients are never left over.
        on_read_error: "error", or "skip" to read another sample of the same task and count it.
        group_by_length: batches hold samples of about one length, which the datasets tell by
            ``length_of(index)``.

    Raises:
        ValueError: from the datasets, of all of them at once, or lengths asked of datasets that
            know none.
    """
    built = _build_datasets(datasets)
    lengths = [len(dataset) for dataset in built]
    repeats = _repeats(datasets, lengths)
    sizes = [int(entry.get("batch_size", batch_size)) for entry in datasets]
    if max_steps is None:
        assert max_epochs is not None
        epoch = epoch_steps(lengths, repeats, [size * world_size for size in sizes])
        updates = Fraction(str(max_epochs)) * epoch / multiple_of
        max_steps = ceil(updates) * multiple_of
    tasks = [dataset.task for dataset in built]
    sampler = StepBatchSampler(
        lengths=lengths,
        repeats=repeats,
        tasks=tasks,
        batch_size=batch_size,
        seed=seed,
        max_steps=max_steps,
        rank=rank,
        world_size=world_size,
        batch_sizes=sizes,
        length_of=_length_of(built) if group_by_length else None,
    )
    mixture = Mixture(
        built,
        names=entry_names(datasets),
        groups=[
            (task, size) if repeat else None
            for task, size, repeat in zip(tasks, sizes, repeats, strict=True)
        ],
        on_read_error=on_read_error,
    )
    return DataLoader(
        mixture,
        batch_sampler=sampler,
        collate_fn=WrappedCollate(_build_collate(collate)),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),  # typed batches pin their own tensors
        worker_init_fn=_start_worker if num_workers else None,
    )


def _build_datasets(entries: Sequence[dict]) -> list[Any]:
    built, found = [], []
    for number, entry in enumerate(entries):
        try:
            built.append(registry.build(entry["dataset"]))
        except (ValueError, OSError) as error:
            found.append(f"train_dataloader.datasets[{number}].dataset: {error}")
    registry.raise_mistakes(found)
    return built


def entry_names(datasets: Sequence[dict]) -> list[str]:
    """What an entry is called: its ``name``, or its place, ``train[0]``."""
    return [entry.get("name", f"train[{number}]") for number, entry in enumerate(datasets)]


def _repeats(datasets: Sequence[dict], lengths: Sequence[int]) -> list[float]:
    if any("weight" in entry for entry in datasets):
        return repeats_of_weights(lengths, [float(entry["weight"]) for entry in datasets])
    return [float(entry.get("repeat", 1.0)) for entry in datasets]


def _length_of(datasets: Sequence[Any]) -> LengthOf:
    """Lengths of the samples; a task whose samples are all alike need not tell any."""
    known = {dataset.task for dataset in datasets if hasattr(dataset, "length_of")}
    silent = [d for d in datasets if d.task in known and not hasattr(d, "length_of")]
    if not known or silent:
        names = ", ".join(sorted({type(dataset).__name__ for dataset in silent or datasets}))
        raise ValueError(
            f"train_dataloader.group_by_length: {names} cannot tell how long samples are "
            "(length_of); leave group_by_length out"
        )
    return lambda dataset, index: (
        datasets[dataset].length_of(index) if datasets[dataset].task in known else 0
    )


def _build_collate(collate: Any) -> Callable[[list], Any]:
    return registry.build(collate) if isinstance(collate, dict) else registry.resolve(collate)


def _start_worker(worker: int) -> None:
    """Workers share the cores and the memory of the training: each keeps to one thread, and its
    garbage collector leaves what was there before alone, whose pages it would write to."""
    torch.set_num_threads(1)
    gc.freeze()
