"""Ref-YouTube-VOS, and Ref-DAVIS17 converted to its layout: palette PNGs by ``obj_id``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from projects.common.mask_store import open_masks
from projects.llava_sam2.datasets.records import load_json
from projects.llava_sam2.datasets.rows import Row
from projects.llava_sam2.datasets.video_rows import (
    Entry,
    NumberedMasks,
    PaletteMasks,
    video_rows,
)

_KINDS = ("png", "mask_dict", "none")


def ref_ytvos_rows(
    *,
    root: str | Path,
    split: str,
    masks: str = "png",
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[Row]:
    """One row per video of a split.

    The released expressions of ``valid`` tell of the 305 test videos too. Where those of ``test``
    lie beside them, they are left out, which leaves the 202 that the benchmark scores.

    Args:
        root: holds ``<split>/JPEGImages``, ``meta_expressions/<split>/meta_expressions.json`` and
            the masks.
        split: "train" or "valid".
        masks: "png": ``<split>/Annotations``; "mask_dict": ``mask_dict.pkl`` of Sa2VA's release,
            which counts the expressions; "none": ``valid``, whose masks are with the server.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many videos.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    without = _test_videos(Path(root)) if split == "valid" else ()
    return _rows(Path(root), split, masks, _no_part, without, on_bad_row, limit)


def ref_davis_rows(
    *,
    root: str | Path,
    split: str = "valid",
    masks: str = "png",
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[Row]:
    """Ref-DAVIS17: as Ref-YouTube-VOS; ``part`` is who wrote the expression.

    The n-th expression of an object is the n-th annotator's, of four: two people, each after the
    first frame and after the whole video.

    Args and raises: as :func:`ref_ytvos_rows`; a ``mask_dict.pkl`` lies in the split's folder.
    """
    return _rows(Path(root), split, masks, _annotator, (), on_bad_row, limit)


def _rows(
    root: Path,
    split: str,
    masks: str,
    part,
    without: Collection[str],
    on_bad_row: str,
    limit: int | None,
) -> Sequence[Row]:
    if masks not in _KINDS:
        raise ValueError(f"masks are one of {', '.join(_KINDS)}; got {masks!r}")
    readers = {
        "png": lambda videos: PaletteMasks(root / split / "Annotations"),
        "mask_dict": lambda videos: NumberedMasks(open_masks(_dictionary(root, split)), videos),
        "none": None,
    }
    return video_rows(
        meta_file=root / "meta_expressions" / split / "meta_expressions.json",
        frame_root=root / split / "JPEGImages",
        masks=readers[masks],
        part=part,
        without=without,
        on_bad_row=on_bad_row,
        limit=limit,
    )


def _dictionary(root: Path, split: str) -> Path:
    """Of the split where it has its own (Ref-DAVIS17), else of the whole (Ref-YouTube-VOS)."""
    own = root / split / "mask_dict.pkl"
    return own if own.is_file() else root / "mask_dict.pkl"


def _test_videos(root: Path) -> Collection[str]:
    file = root / "meta_expressions" / "test" / "meta_expressions.json"
    if not file.is_file():
        return ()
    content = load_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("videos"), dict):
        raise ValueError(f"{file}: expected an object with 'videos'")
    return content["videos"]


def _no_part(video: str, entries: Mapping[str, Entry], key: str) -> None:
    return None


def _annotator(video: str, entries: Mapping[str, Entry], key: str) -> str | None:
    if "obj_id" not in entries[key]:  # a mask dictionary does not need it
        return None
    of_object = [k for k, entry in entries.items() if entry.get("obj_id") == entries[key]["obj_id"]]
    return f"annotator {of_object.index(key) + 1}"
