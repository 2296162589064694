"""MeViS, and what is laid out like it: a folder with expressions, a mask dictionary and frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from projects.common.mask_store import open_masks
from projects.llava_sam2.datasets.rows import Row
from projects.llava_sam2.datasets.video_rows import StoredMasks, video_rows


def mevis_rows(
    *,
    root: str | Path,
    masks: bool = True,
    meta: str = "meta_expressions.json",
    frames: str = "JPEGImages",
    suffix: str = ".jpg",
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[Row]:
    """One row per video of a split folder, with all its expressions.

    An expression may name several objects: its mask is the union over its ``anno_id``.

    Args:
        root: the split's folder: ``JPEGImages``, ``meta_expressions.json``, ``mask_dict.json``.
        masks: False for a split whose masks are with the benchmark's server (``valid``).
        meta: the file of expressions within ``root``.
        frames: the folder of the videos within ``root``.
        suffix: of the frame files.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many videos.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    root = Path(root)
    return video_rows(
        meta_file=root / meta,
        frame_root=root / frames,
        masks=(lambda videos: StoredMasks(open_masks(root / "mask_dict.json"))) if masks else None,
        suffix=suffix,
        on_bad_row=on_bad_row,
        limit=limit,
    )


def ref_sav_eval_rows(
    *, root: str | Path, on_bad_row: str = "error", limit: int | None = None
) -> Sequence[Row]:
    """Ref-SAV's evaluation set: ``videos``, ``meta_expressions_valid.json``, ``mask_dict.json``.

    Args and raises: as :func:`mevis_rows`.
    """
    return mevis_rows(
        root=root,
        meta="meta_expressions_valid.json",
        frames="videos",
        on_bad_row=on_bad_row,
        limit=limit,
    )
