"""Hand-written dataset files."""

from __future__ import annotations

import numpy as np
from PIL import Image
from pycocotools import mask as coco

SIZE = (8, 10)


def write_frames(folder, names, size=SIZE):
    """Grey images, the n-th with the value 10 n."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), number * 10, np.uint8)).save(folder / name)


def square(top, left, size=SIZE):
    """A mask of 3 x 3 pixels."""
    mask = np.zeros(size, bool)
    mask[top : top + 3, left : left + 3] = True
    return mask


def rle(mask):
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def write_ids(path, masks, mode="P"):
    """A PNG of object ids; ``masks`` maps ids to masks."""
    ids = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for key, mask in masks.items():
        ids[mask] = key
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(path)
