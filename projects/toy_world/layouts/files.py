"""What the writers share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.common.video import write_jpeg
from projects.toy_world.expressions import Expression

Records = Mapping[str, Sequence[Any]]  # split -> one record an item, in order


def write_json(path: Path, content: Any) -> None:
    """Write JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a list file, one entry a line, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_frames(folder: Path, frames: np.ndarray) -> list[str]:
    """Write frames as 00000.jpg, ...; returns their names without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:05d}" for number in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        write_jpeg(folder / f"{name}.jpg", frame)
    return names


def labels_of(expression: Expression) -> dict[str, list[str]]:
    """What toy_world.json says of an expression."""
    return {"uses": list(expression.uses), "needs": list(expression.needs)}
