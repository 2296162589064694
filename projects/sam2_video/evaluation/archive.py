"""Predictions as a zip file, as evaluation servers take them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from projects.common.whole_file import whole_file
from projects.sam2_video.data.sources import require_all


def zip_predictions(
    root: str | Path, videos: Sequence[str], path: str | Path, *, folder: str = ""
) -> int:
    """Write ``[<folder>/]<video>/...png`` of whole videos; returns the number of files.

    Raises:
        FileNotFoundError: a video is not there yet.
    """
    root, path = Path(root), Path(path)
    missing = [str(root / name) for name in videos if not (root / name).is_dir()]
    require_all(missing, "predicted videos", "run the inference to its end, all shards")
    files = [file for name in videos for file in sorted((root / name).rglob("*.png"))]
    with whole_file(path) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed
            for file in files:
                archive.write(file, Path(folder) / file.relative_to(root))
    return len(files)
