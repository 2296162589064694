"""Scores of folders in files: SA-V's CSV beside the predictions, and JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from projects.common.whole_file import whole_file
from projects.sam2_video.evaluation.folders import FolderScores
from projects.sam2_video.evaluation.scorer import ObjectScore, mean_scores

CSV_NAME = "results.csv"
SCENE_GROUPS = ("1", "2", "3+")


def write_csv(scores: FolderScores, path: str | Path) -> None:
    """``sequence, obj, J&F, J, F``: percent with one decimal, all objects together first."""
    width = max(len("Global score"), *(len(video) for video in scores.videos))
    summary = scores.summary()
    lines = [f"{'sequence':<{width}},obj,  J&F,    J,    F"]
    lines.append(_line("Global score", "", width, [summary[key] for key in ("J&F", "J", "F")]))
    for (video, name), score in scores.objects.items():
        lines.append(_line(video, name, width, [score.mean, score.region, score.boundary]))
    _write(Path(path), "\n".join(lines) + "\n")


def write_json(
    scores: FolderScores,
    path: str | Path,
    *,
    settings: dict[str, Any] | None = None,
    scenes: dict[str, int] | None = None,
) -> None:
    """All scores as fractions, what was left out, and how they were taken.

    Args:
        settings: what else a reader must know to get the same numbers.
        scenes: number of scenes of every video; adds a score per group.
    """
    content: dict[str, Any] = scores.summary()
    if scenes is not None:
        content["scenes"] = scene_scores(scores, scenes)
    content |= {
        "videos": len(scores.videos),
        "objects": len(scores.objects),
        "video_list_sha256": hashlib.sha256("\n".join(scores.videos).encode()).hexdigest(),
        "settings": settings or {},
        "left_out": scores.left_out,
        "missing_files": scores.missing_files,
        "per_object": [_row(*key, score) for key, score in scores.objects.items()],
    }
    _write(Path(path), json.dumps(content, indent=1) + "\n")


def scene_scores(scores: FolderScores, scenes: dict[str, int]) -> dict[str, dict[str, float]]:
    """Scores of the objects of videos with 1, 2, and 3 or more scenes, as SeCVOS reports them.

    Raises:
        ValueError: a scored video is not in ``scenes``.
    """
    unknown = [video for video in scores.videos if video not in scenes]
    if unknown:
        raise ValueError(
            f"the scene list lacks {len(unknown)} of {len(scores.videos)} scored videos, first: "
            f"{', '.join(unknown[:5])}"
        )
    groups: dict[str, list[tuple[float, float]]] = {}
    for (video, _), score in scores.objects.items():
        group = SCENE_GROUPS[min(scenes[video], len(SCENE_GROUPS)) - 1]
        groups.setdefault(group, []).append((score.region, score.boundary))
    return {
        group: mean_scores(groups[group]) | {"objects": len(groups[group])}
        for group in SCENE_GROUPS
        if group in groups
    }


def read_scene_list(path: str | Path) -> dict[str, int]:
    """Number of scenes by video, from lines ``<video> <number>`` (a comma may part them).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line of another form, or a video named twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"scene list {path} does not exist; write lines '<video> <number>'")
    scenes: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        words = line.replace(",", " ").split()
        if len(words) != 2 or not words[1].isdigit() or int(words[1]) < 1 or words[0] in scenes:
            raise ValueError(
                f"{path}, line {number}: {line!r} should be '<video> <number of scenes>', each "
                "video once"
            )
        scenes[words[0]] = int(words[1])
    return scenes


def _line(video: str, name: str, width: int, values: list[float]) -> str:
    numbers = ",".join(f"{100 * value:>5.1f}" for value in values)
    return f"{video:<{width}},{name:>3},{numbers}"


def _row(video: str, name: str, score: ObjectScore) -> dict[str, Any]:
    return {
        "video": video,
        "object": name,
        "J&F": score.mean,
        "J": score.region,
        "F": score.boundary,
        "frames": score.frames,
    }


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
