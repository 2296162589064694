"""What a work directory holds: training logs, scores and records, read and checked.

::

    WORK_DIR/scores.json                             flat scores, merged here
    WORK_DIR/timings.json                            optional: seconds of each part of the job
    WORK_DIR/<stage>/metrics.jsonl                   one JSON object a logged step
    WORK_DIR/<stage>/scores.json                     flat scores of that stage
    WORK_DIR/<stage>/predictions/<benchmark>.jsonl   records of an evaluation

A missing scores file is an error. Everything else may be missing: ``Results.notes`` then says so.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from projects.common.whole_file import whole_file

METRICS, SCORES, TIMINGS, PREDICTIONS = (
    "metrics.jsonl",
    "scores.json",
    "timings.json",
    "predictions",
)


@dataclass
class Stage:
    """One training stage: its folder, its logged steps, the config it ran with (if dumped)."""

    name: str
    steps: list[dict[str, Any]] = field(default_factory=list)
    config: str | None = None

    def seconds(self) -> float | None:
        """Time spent on steps: a line's ``time`` is the mean since the line before it."""
        before, total = 0.0, 0.0
        for row in self.steps:
            total += row.get("time", 0.0) * (row["step"] - before)
            before = row["step"]
        return total or None


@dataclass
class Results:
    """All that was found under ``folder``; ``notes`` are sentences about what was not."""

    folder: Path
    stages: list[Stage]
    scores: dict[str, float]
    records: dict[str, list[dict[str, Any]]]
    timings: dict[str, float]
    notes: list[str]

    def family_counts(self) -> dict[str, dict[str | None, int]]:
        """benchmark -> family -> records, parted as the evaluation does; None stands for all."""
        counts: dict[str, dict[str | None, int]] = {}
        for benchmark, rows in self.records.items():
            found = counts.setdefault(benchmark, {})
            for row in rows:
                uses = sorted(str(use) for use in row.get("uses") or ())
                parts = [*uses, *(f"needs {need}" for need in row.get("needs") or ())]
                parts += [f"only {'+'.join(uses)}"] if uses else []
                for part in [None, *parts]:
                    found[part] = found.get(part, 0) + 1
        return counts


def read_results(work_dir: str | Path) -> Results:
    """Read a work directory.

    Raises:
        FileNotFoundError: no such directory, or no scores file in it.
        ValueError: a scores file that is not a flat object of finite numbers.
    """
    folder = Path(work_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such work directory; train and evaluate first")
    notes: list[str] = []
    stage_folders = _stage_folders(folder)
    scores = _merge_scores(folder, stage_folders, notes)
    stages = [_read_stage(path, notes) for path in stage_folders]
    if not any(stage.steps for stage in stages):
        notes.append(f"No training log ({METRICS}) was found, so there are no loss curves.")
    records: dict[str, list[dict[str, Any]]] = {}
    for path in [folder, *stage_folders]:
        for file in sorted((path / PREDICTIONS).glob("*.jsonl")):
            records[file.stem] = _read_json_lines(file, folder, notes)
    if not records:
        notes.append(f"No {PREDICTIONS} folder was found, so there are no pictures.")
    timings = _read_numbers(folder / TIMINGS) if (folder / TIMINGS).is_file() else {}
    return Results(folder, stages, scores, records, timings, notes)


def write_scores(results: Results) -> Path:
    """Write the merged scores to ``WORK_DIR/scores.json``, whole or not at all."""
    text = json.dumps(dict(sorted(results.scores.items())), indent=2) + "\n"
    return write_whole(results.folder / SCORES, text.encode())


def write_whole(path: Path, content: bytes) -> Path:
    """Write under a temporary name, then rename: a reader never sees half a file."""
    with whole_file(path) as partial:
        partial.write_bytes(content)
    return path


def _stage_folders(folder: Path) -> list[Path]:
    """Sub-folders that hold a log, scores or records; ``stage10`` comes after ``stage2``."""
    wanted = (METRICS, SCORES, PREDICTIONS)
    found = [
        path
        for path in folder.iterdir()
        if path.is_dir() and any((path / name).exists() for name in wanted)
    ]
    found = [path for path in found if path.name != PREDICTIONS]
    return sorted(found, key=lambda path: [_natural(t) for t in re.split(r"(\d+)", path.name)])


def _natural(text: str) -> tuple[int, int, str]:
    return (0, int(text), "") if text.isdigit() else (1, 0, text)


def _merge_scores(folder: Path, stages: list[Path], notes: list[str]) -> dict[str, float]:
    """Scores of all stages. The merged file is older than a stage's, so the stage's count."""
    files = [path / SCORES for path in [folder, *stages] if (path / SCORES).is_file()]
    if not files:
        raise FileNotFoundError(
            f"{folder}: no {SCORES}, neither there nor in a stage's folder; run the evaluation "
            f"first (bash tools/dist.sh test CONFIG GPUS ...)"
        )
    merged: dict[str, float] = {}
    by_stage: dict[str, tuple[str, float]] = {}
    for file in files:
        for key, value in _read_numbers(file).items():
            if key in by_stage and by_stage[key][1] != value:
                stage, before = by_stage[key]
                notes.append(
                    f"{key} was {before:.3f} after {stage} and {value:.3f} after "
                    f"{file.parent.name}; the later value is shown."
                )
            if file.parent != folder:
                by_stage[key] = (file.parent.name, value)
            merged[key] = value
    return merged


def _read_numbers(path: Path) -> dict[str, float]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it and evaluate again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: need one flat object of numbers, not a {type(content).__name__}")
    for key, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{path}: {key!r} is {value!r}, not a number; evaluate again")
        if not math.isfinite(value):
            raise ValueError(f"{path}: {key!r} is {value}; the evaluation went wrong, run it again")
    return {key: float(value) for key, value in content.items()}


def _read_stage(path: Path, notes: list[str]) -> Stage:
    stage = Stage(path.name)
    if (path / METRICS).is_file():
        stage.steps = [
            {key: value for key, value in row.items() if isinstance(value, str) or _finite(value)}
            for row in _read_json_lines(path / METRICS, path.parent, notes)
            if _finite(row.get("step"))
        ]
    else:
        notes.append(f"{path.name} has no {METRICS}, so its loss curves are missing.")
    configs = sorted(path.glob("*.py"), key=lambda file: file.stat().st_mtime)
    if configs:
        stage.config = configs[-1].read_text(encoding="utf-8")
    return stage


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_json_lines(path: Path, root: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file; a line cut off by a killed run is left out and named."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            notes.append(f"{path.relative_to(root)}, line {number}: not a JSON object; left out.")
    return rows
