"""ReVOS: expressions that refer or want reasoning, and some that name nothing in the video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from projects.common.mask_store import open_masks
from projects.llava_sam2.datasets.rows import Row
from projects.llava_sam2.datasets.video_rows import Entry, StoredMasks, video_rows

ABSENT = "absent"
TYPES = {0: "referring", 1: "reasoning", 2: ABSENT}  # by the file's ``type_id``


def revos_rows(
    *,
    root: str | Path,
    split: str,
    frames: str = "JPEGImages",
    on_bad_row: str = "error",
    limit: int | None = None,
) -> Sequence[Row]:
    """One row per video; the names of videos contain a sub-folder. ``part`` is the type.

    An expression of the type "absent" may have no object, or masks that are all empty: it is
    answered without [SEG].

    Args:
        root: holds ``meta_expressions_<split>_.json``, ``mask_dict.json`` and the frames.
        split: "train" or "valid".
        frames: the folder of the videos within ``root``; "" where they lie in it itself, as in
            Sa2VA's release.
        on_bad_row: "error" raises with all bad records; "skip" leaves them out with a count.
        limit: keep the first so many videos.

    Raises:
        FileNotFoundError, ValueError: naming the file and the records.
    """
    root = Path(root)
    return video_rows(
        meta_file=root / f"meta_expressions_{split}_.json",
        frame_root=root / frames,
        masks=lambda videos: StoredMasks(open_masks(root / "mask_dict.json")),
        part=_type,
        absent=lambda entry: TYPES.get(entry.get("type_id")) == ABSENT,
        on_bad_row=on_bad_row,
        limit=limit,
    )


def _type(video: str, entries: Mapping[str, Entry], key: str) -> str | None:
    return TYPES.get(entries[key].get("type_id"))
