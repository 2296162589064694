"""Links a download into place below the data root, and says what is there.

Nothing is copied, moved or overwritten: a place that exists stays as it is, and a second run links
nothing new.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from projects.llava_sam2.downloads.catalogue import CATALOGUE, PLACES, Entry, Place

COMPLETE, INCOMPLETE, MISSING = "complete", "incomplete", "missing"


@dataclass(frozen=True)
class Linked:
    """What became of the places: paths below the data root."""

    made: dict[str, Path] = field(default_factory=dict)  # place -> what it now points at
    kept: list[str] = field(default_factory=list)  # there before
    broken: list[str] = field(default_factory=list)  # links that lead nowhere


@dataclass(frozen=True)
class Status:
    """A dataset's state, and what it lacks."""

    entry: Entry
    state: str
    problems: tuple[str, ...]


def link(download: str | Path, data_root: str | Path, places: Iterable[Place] = PLACES) -> Linked:
    """Link every place that is found in ``download``.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the download and the data root are within each other.
    """
    download, root = Path(download).expanduser(), Path(data_root)
    if not download.is_dir():
        raise FileNotFoundError(f"{download}: no such folder of downloads")
    source = download.resolve()
    if source == root.resolve() or root.resolve().is_relative_to(source):
        raise ValueError(f"{download} holds the data root {root}; give the folder of a download")
    if source.is_relative_to(root.resolve()):
        raise ValueError(f"{download} lies within the data root {root}: it is in place already")
    linked = Linked()
    for place in places:
        _link_one(place, source, root, linked)
    return linked


def _link_one(place: Place, source: Path, root: Path, linked: Linked) -> None:
    target = root / place.path
    if target.is_symlink() and not target.exists():
        linked.broken.append(f"{target} -> {os.readlink(target)}")
        return
    if target.exists():
        linked.kept.append(place.path)
        return
    for name in (place.path, *place.as_downloaded):
        found = source / name
        if found.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(found)
            linked.made[place.path] = found
            return


def statuses(data_root: str | Path, catalogue: Sequence[Entry] = CATALOGUE) -> list[Status]:
    """Each dataset's state below ``data_root``."""
    root = Path(data_root)
    return [_status(entry, root) for entry in catalogue]


def _status(entry: Entry, root: Path) -> Status:
    problems = []
    for wanted in entry.wants:
        try:
            problem = wanted.missing(root)
        except ValueError as error:  # a list that cannot be read
            problem = str(error)
        if problem is not None:
            problems.append(problem)
    if not problems:
        return Status(entry, COMPLETE, ())
    nothing = all(problem.startswith("no ") for problem in problems)
    return Status(entry, MISSING if nothing else INCOMPLETE, tuple(problems))


def describe(linked: Linked, found: Sequence[Status]) -> str:
    """Both in words, for a terminal."""
    lines = [f"linked {path} -> {source}" for path, source in linked.made.items()]
    if linked.kept:
        lines.append(f"left as they were: {', '.join(linked.kept)}")
    lines += [
        f"a link that leads nowhere, remove it or mount what it points at: {path}"
        for path in linked.broken
    ]
    for state in (COMPLETE, INCOMPLETE, MISSING):
        chosen = [status for status in found if status.state == state]
        if not chosen:
            continue
        lines.append(f"\n{state} ({len(chosen)} of {len(found)})")
        if state == COMPLETE:
            lines.append("  " + ", ".join(status.entry.name for status in chosen))
            continue
        for status in chosen:
            lines.append(f"  {status.entry.name}")
            lines += [f"    {problem}" for problem in status.problems]
            lines += [f"    from {page}" for page in status.entry.pages]
    return "\n".join(lines) + "\n"
