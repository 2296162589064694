"""What each expression uses (colour, shape, motion, ...), from the toy world's sidecar file."""

from __future__ import annotations

from pathlib import Path

from projects.llava_sam2.datasets.rows import load_json


def load_uses(*, file: str | Path, dataset: str) -> dict[str, list[str]]:
    """``{expression key: [labels]}`` from ``toy_world.json``.

    Args:
        file: holds ``labels: {"refcoco": {sent_id: {"uses": [...]}},
            "mevis": {video: {expression id: {"uses": [...]}}}}``.
        dataset: "refcoco" or "mevis". Keys are ``Expression.key`` of its rows.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    file = Path(file)
    labels = load_json(file).get("labels", {})
    if dataset not in labels:
        known = ", ".join(labels) or "nothing"
        raise ValueError(f"{file}: no labels of {dataset!r}; it has labels of {known}")
    flat: dict[str, list[str]] = {}
    for key, entry in labels[dataset].items():
        if "uses" in entry:
            flat[key] = entry["uses"]
        else:
            flat |= {f"{key}/{expression}": label["uses"] for expression, label in entry.items()}
    return flat
