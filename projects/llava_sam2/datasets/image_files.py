"""Files that annotations name: where they are, and that they stay in their folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple


class _Names(NamedTuple):
    """What lies in one folder."""

    files: frozenset[str]
    folders: frozenset[str]


class FolderFiles:
    """The files below a folder.

    A folder is listed once, when the first of its files is asked for: to ask the file system for
    each of a million files takes minutes, on a network hours. So what is put there later is not
    seen, and what is removed is missed only when it is read.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._listed: dict[str, _Names] = {}

    def find(self, name: Any, *, folder: bool = False) -> tuple[Path, str | None]:
        """The file ``name`` below the root, and what is wrong with it, or None.

        A name from a file of strangers may not lead out of the folder that it belongs to.

        Args:
            folder: whether it may be a folder (of frames) as well.
        """
        if not isinstance(name, str) or not name:
            return self.root, f"{name!r} is no file name"
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            return self.root, f"{name!r} leads out of {self.root}"
        path = self.root / relative
        names = self._names(str(path.parent))
        there = path.name in names.files or (folder and path.name in names.folders)
        return path, None if there else f"no file {path}"

    def _names(self, folder: str) -> _Names:
        if folder not in self._listed:
            self._listed[folder] = _list(folder)
        return self._listed[folder]


def _list(folder: str) -> _Names:
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():  # a link to nothing is neither
                    files.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):  # then every file of it is reported
        pass
    return _Names(frozenset(files), frozenset(folders))
