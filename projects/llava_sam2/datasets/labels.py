"""What each expression uses (colour, shape, motion, ...), from the toy world's sidecar file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from projects.llava_sam2.datasets.records import load_json

# expression key -> {"uses": words of these kinds, "needs": kinds without which it is ambiguous}
Labels = Mapping[str, Mapping[str, list[str]]]


def load_labels(*, file: str | Path, dataset: str) -> Labels:
    """Labels by ``Expression.key`` from ``toy_world.json``.

    Args:
        file: holds ``labels: {"refcoco": {sent_id: label}, "mevis": {video: {expression id:
            label}}}`` with labels ``{"uses": [...], "needs": [...]}``.
        dataset: "refcoco" or "mevis".

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    file = Path(file)
    labels = load_json(file).get("labels", {})
    if dataset not in labels:
        known = ", ".join(labels) or "nothing"
        raise ValueError(f"{file}: no labels of {dataset!r}; it has labels of {known}")
    flat: dict[str, Mapping[str, list[str]]] = {}
    for key, entry in labels[dataset].items():
        if "uses" in entry:
            flat[key] = entry
        else:
            flat |= {f"{key}/{expression}": label for expression, label in entry.items()}
    return flat
