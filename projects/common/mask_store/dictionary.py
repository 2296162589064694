"""Mask dictionaries as released: ``{anno_id: [RLE or null, one per frame]}``, json or pickle.

A json is read piece by piece: what is held is one track, not the parsed gigabyte. A pickle can only
be read whole; it is read by an unpickler that admits plain data.

ReVOS's ``mask_dict_foreground.json`` has ``{video: {"masks_rle": [...], ...}}``: the same, one
level deeper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from projects.common.json_stream import json_items
from projects.common.plain_pickle import load_plain_pickle

_BLOCK, _BLOCKS = 1 << 16, 16
_PICKLES = (".pkl", ".p", ".pickle")
_NESTED = "masks_rle"

Track = list[Any]


def identity(path: Path) -> dict[str, Any]:
    """What says that a file is still the same: size, time of change and a hash.

    The hash is taken of 16 blocks of 64 kB, the first, the last and others evenly between (of all
    of a file up to a megabyte): a thousandth of the work, and a file that was written anew differs
    in its size, its time or one of them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such mask dictionary; check the data root")
    status = path.stat()
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        if status.st_size <= _BLOCK * _BLOCKS:
            digest.update(file.read())
        else:
            for number in range(_BLOCKS):
                file.seek((status.st_size - _BLOCK) * number // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "hash": digest.hexdigest()}


def read_tracks(path: Path) -> Iterator[tuple[str, Track, int]]:
    """Key, track, and bytes of the file that have been read so far.

    Raises:
        ValueError: not a dictionary of lists, with the key; broken json, with the place.
    """
    items = _pickle_items(path) if path.suffix in _PICKLES else json_items(path, what="anno_ids")
    for key, value, done in items:
        track = value.get(_NESTED) if isinstance(value, dict) else value
        if not isinstance(track, list | tuple):
            raise ValueError(
                f"{path}: key {key!r}: expected a list with an RLE or null for each frame, found "
                f"{type(value).__name__}; this is not a mask dictionary"
            )
        yield key, list(track), done


def _pickle_items(path: Path) -> Iterator[tuple[str, Any, int]]:
    content = load_plain_pickle(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object of anno_ids, found {type(content).__name__}")
    size = path.stat().st_size
    for number, (key, value) in enumerate(content.items(), start=1):
        yield str(key), value, size * number // len(content)
