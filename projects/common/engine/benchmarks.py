"""Benchmarks of a config: one way to run them, for ``tools/test.py`` and within a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from projects.common import registry
from projects.common.engine.model import TrainableModel
from projects.common.engine.seeding import seed_everything
from projects.common.evaluation import Benchmark, Record, run_benchmark


class SpreadItems:
    """At most ``count`` items of a benchmark, spread evenly over it: the same ones every time."""

    def __init__(self, *, benchmark: Benchmark, count: int) -> None:
        self.benchmark = benchmark
        count = min(count, len(benchmark))
        self.indices = np.linspace(0, len(benchmark) - 1, count).round().astype(int).tolist()
        if hasattr(benchmark, "fingerprint"):
            self.fingerprint = lambda: f"{benchmark.fingerprint()}:{self.indices}"

    def __len__(self) -> int:
        return len(self.indices)

    def predict(self, model: Any, index: int) -> list[Record]:
        return self.benchmark.predict(model, self.indices[index])

    def summarise(self, records: list[Record]) -> dict[str, float]:
        return self.benchmark.summarise(records)


def choose(known: list[str], wanted: list[str] | None) -> list[str]:
    """The benchmarks to run, all where none is named.

    Raises:
        ConfigError: the config has none, or not these.
    """
    if not known:
        raise registry.ConfigError("the config has no benchmarks")
    unknown = [name for name in wanted or [] if name not in known]
    if unknown:
        raise registry.ConfigError(
            f"no benchmark {', '.join(unknown)}: the config has {', '.join(known)}"
        )
    return known if wanted is None else list(wanted)


def build_benchmarks(
    tree: dict[str, Any], names: list[str], max_items: int | None = None
) -> dict[str, Benchmark]:
    """Build benchmarks of a config tree, cut to ``max_items`` items each where that is given."""
    built = {name: registry.build(tree["benchmarks"][name]) for name in names}
    if max_items is None:
        return built
    return {name: SpreadItems(benchmark=b, count=max_items) for name, b in built.items()}


def run_benchmarks(
    benchmarks: dict[str, Benchmark], model: TrainableModel, out_dir: Path, *, seed: int
) -> dict[str, float]:
    """Scores of all benchmarks, ``{"<benchmark>/<metric>": value}``, the same on every rank."""
    scores: dict[str, float] = {}
    for name, benchmark in benchmarks.items():
        seed_everything(seed)
        with model.autocast():
            scores |= run_benchmark(name, benchmark, model, out_dir)
    return scores
