"""What the writers of image formats share."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from projects.toy_world.layouts.files import Records
from projects.toy_world.layouts.refcoco import ImageRecord, Look, image_folder

TOLD = 40  # images (at most) of a split that other formats tell of


def told_images(records: Mapping[str, Records], split: str) -> Sequence[ImageRecord]:
    """The first images of a split of the RefCOCO layout."""
    return records["refcoco"][split][:TOLD]


def copy_images(root: Path, folder: Path, images: Sequence[ImageRecord]) -> None:
    """Copies into the folder where the release of a format has its images."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        shutil.copyfile(image_folder(root) / image.file_name, folder / image.file_name)


def describe(look: Look) -> str:
    """Such as "a small red circle"; no two things of an image are described alike."""
    return f"a {look.size} {look.colour} {look.shape}"


def listed(phrases: Sequence[str]) -> str:
    """Such as "a , b and c"."""
    *first, last = phrases
    return f"{' , '.join(first)} and {last}" if first else last
