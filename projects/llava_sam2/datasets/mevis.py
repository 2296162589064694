"""MeViS: ``meta_expressions.json``, ``mask_dict.json`` and folders of JPEG frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from projects.llava_sam2.datasets.rows import (
    Expression,
    RleTrack,
    Row,
    RowErrors,
    load_json,
    tracks_read,
)


def mevis_rows(
    *,
    root: str | Path,
    suffix: str = ".jpg",
    on_bad_row: str = "error",
    limit: int | None = None,
) -> list[Row]:
    """One row per video of a split folder, with all its expressions.

    An expression may name several objects: its mask is the union over its ``anno_id``.

    Args:
        root: the split's folder: ``JPEGImages``, ``meta_expressions.json``, ``mask_dict.json``.
        suffix: of the frame files.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many videos.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records. A split without masks
            (MeViS ``valid``, whose scores come from the benchmark's server) is one.
    """
    root = Path(root)
    meta_file, masks_file = root / "meta_expressions.json", root / "mask_dict.json"
    videos = load_json(meta_file)
    if not isinstance(videos, dict) or not isinstance(videos.get("videos"), dict):
        raise ValueError(f"{meta_file}: expected an object with 'videos'")
    masks = load_json(masks_file)
    if not isinstance(masks, dict):
        raise ValueError(f"{masks_file}: expected an object of anno_ids")
    errors = RowErrors(meta_file, on_bad_row)
    rows = []
    for name, video in list(videos["videos"].items())[:limit]:
        row = _row(root / "JPEGImages" / name, name, video, suffix, masks, masks_file, errors)
        if row is not None and row.expressions:
            rows.append(row)
    errors.finish(rows)
    return rows


def _row(
    folder: Path,
    name: str,
    video: dict[str, Any],
    suffix: str,
    masks: dict[str, list[dict[str, Any] | None]],
    masks_file: Path,
    errors: RowErrors,
) -> Row | None:
    if not isinstance(video, dict) or not {"frames", "expressions"} <= video.keys():
        errors.add(f"video {name}", "it needs 'frames' and 'expressions'")
        return None
    frames = tuple(f"{frame}{suffix}" for frame in video["frames"])
    problem = _missing_frames(folder, frames)
    if problem is not None:
        errors.add(f"video {name}", problem)
        return None
    used = {str(i) for entry in video["expressions"].values() for i in entry.get("anno_id", ())}
    ids = sorted(used & masks.keys(), key=_numeric)
    tracks = tuple(RleTrack(masks[i], where=f"{masks_file} anno_id {i}") for i in ids)
    position = {anno_id: index for index, anno_id in enumerate(ids)}
    expressions = []
    for key, entry in video["expressions"].items():
        objects = [str(anno_id) for anno_id in entry.get("anno_id", ())]
        problem = _bad_expression(entry, objects, position, tracks, len(frames), masks_file)
        if problem is None:
            targets = tuple(position[anno_id] for anno_id in objects)
            expressions.append(Expression(entry["exp"].strip(), targets, f"{name}/{key}"))
        else:
            errors.add(f"video {name} expression {key}", problem)
    return Row(name, folder, frames, None, tracks, tuple(expressions))


def _missing_frames(folder: Path, frames: Sequence[str]) -> str | None:
    if not frames:
        return "it lists no frames"
    if not folder.is_dir():
        return f"no folder {folder}"
    missing = set(frames) - {path.name for path in folder.iterdir()}
    if missing:
        return f"{len(missing)} of {len(frames)} frames are not in {folder}, e.g. {min(missing)}"
    return None


def _bad_expression(
    entry: dict[str, Any],
    objects: Sequence[str],
    position: dict[str, int],
    tracks: Sequence[RleTrack],
    frames: int,
    masks_file: Path,
) -> str | None:
    """What is wrong with an expression, or None."""
    if not entry.get("exp", "").strip():
        return "empty expression"
    if not objects:
        return "it names no anno_id (a split without masks is scored by the benchmark's server)"
    unknown = [anno_id for anno_id in objects if anno_id not in position]
    if unknown:
        return f"anno_id {', '.join(unknown)} not in {masks_file}"
    for anno_id in objects:
        length = len(tracks[position[anno_id]].rles)
        if length != frames:
            return f"anno_id {anno_id} has {length} masks in {masks_file} for {frames} frames"
    return tracks_read([position[anno_id] for anno_id in objects], tracks, frames)


def _numeric(text: str) -> tuple[int, str]:
    return (int(text), text) if text.isdigit() else (-1, text)
