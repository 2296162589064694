"""Sa2VA's fine-tune json: an image, its objects as polygons, an expression for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from projects.toy_world.layouts.files import Records, write_json
from projects.toy_world.retold.pictures import copy_images, told_images
from projects.toy_world.world import World


def write(world: World, records: Mapping[str, Records], root: Path) -> None:
    """Objects with a hole, which polygons cannot say, are left out, and so is what nobody names."""
    folder, images, entries = root / "sa2va_finetune", told_images(records, "train"), []
    for image in images:
        told = [
            (annotation["segmentation"], said[0].text)
            for annotation, said in zip(image.annotations, image.expressions, strict=True)
            if said and isinstance(annotation["segmentation"], list)
        ]
        if told:
            masks, texts = zip(*told, strict=True)
            entries.append({"image": image.file_name, "mask": masks, "text": texts})
    copy_images(root, folder / "images", images)
    write_json(folder / "annotations.json", entries)
