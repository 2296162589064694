"""Files that annotations name: where they are, and that they stay in their folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any


def file_inside(root: Path, name: Any, *, folder: bool = False) -> tuple[Path, str | None]:
    """The file ``name`` below ``root``, and what is wrong with it, or None.

    A name from a file of strangers may not lead out of the folder that it belongs to.

    Args:
        folder: whether it may be a folder (of frames) as well.
    """
    if not isinstance(name, str) or not name:
        return root, f"{name!r} is no file name"
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        return root, f"{name!r} leads out of {root}"
    path = root / relative
    there = path.is_file() or (folder and path.is_dir())
    return path, None if there else f"no file {path}"
