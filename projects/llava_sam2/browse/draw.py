"""Samples of a config's training datasets, drawn as training draws them, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from projects.common import registry
from projects.common.engine.loader import entry_names
from projects.common.inspection import spread
from projects.common.progress import Progress
from projects.common.report.results import write_whole
from projects.common.samplers import Draw
from projects.llava_sam2.browse.page import page_html, problem_html, sample_html


def browse(
    tree: dict[str, Any],
    output: str | Path,
    *,
    title: str,
    names: Sequence[str] | None = None,
    count: int = 20,
    seed: int = 0,
) -> Path:
    """Write the page and return its path.

    Args:
        tree: of ``engine.config.plain``.
        names: datasets to show, by their ``name`` or place (``train[0]``); None shows all.
        count: samples of each dataset, spread evenly over it.
        seed: of what is drawn within a sample; the n-th of a dataset has ``seed + n``.

    Raises:
        ValueError: mistakes in the config, names that are none, a count below 1.
    """
    entries = tree.get("train_dataloader", {}).get("datasets", [])
    chosen = dict(zip(entry_names(entries), entries, strict=True))
    unknown = [name for name in names or [] if name not in chosen]
    if unknown or not chosen:
        raise ValueError(f"no dataset {unknown or ''}; there is {', '.join(chosen) or 'none'}")
    if count < 1:
        raise ValueError(f"give at least 1 sample a dataset, not {count}")
    chosen = {name: chosen[name]["dataset"] for name in names or chosen}
    registry.check(chosen)
    cards, notes = {}, {}
    for number, (name, cfg) in enumerate(chosen.items()):
        dataset = registry.build(cfg)
        notes[name] = f"{type(dataset).__name__}, task {dataset.task}, {len(dataset)} items"
        cards[name] = _cards(dataset, number, name, count, seed)
    return write_whole(Path(output), page_html(title, cards, notes).encode("utf-8"))


def _cards(dataset: Any, number: int, name: str, count: int, seed: int) -> list[str]:
    tokenizer = _tokenizer(dataset)
    cards = []
    indices = spread(len(dataset), count)
    with Progress(total=len(indices), description=f"drawing {name}") as progress:
        for place, index in enumerate(indices):
            try:
                sample = dataset[Draw(number, index, seed + place)]
            except (ValueError, OSError) as error:  # what a run would stop at; bugs are raised
                cards.append(problem_html(f"sample {index}", str(error)))
            else:
                cards.append(sample_html(sample, tokenizer))
            progress.update()
    return cards


def _tokenizer(dataset: Any) -> Any:
    """The tokenizer of the inputs, or of the inputs that they are made of; clips have none."""
    inputs = getattr(dataset, "inputs", None)
    while hasattr(inputs, "inputs"):
        inputs = inputs.inputs
    return getattr(inputs, "tokenizer", None)
