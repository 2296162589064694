"""The file of a mask store.

    magic | texts of the RLEs | tables | footer (json) | its length, its checksum, magic

Tables, for M masks (a track's frames one after the other) of N tracks:

    offset  uint64 [M + 1]   where a mask's text begins
    size    uint32 [M, 2]    height, width; 0, 0 where the object is absent (null)
    area    uint32 [M]       pixels; BROKEN: the text is the record as json, for the error message
    first   uint64 [N + 1]   the first mask of a track
    hash    uint64 [N]       of the keys, sorted; ``order`` uint64 [N]: the track of each
    name    uint64 [N + 1]   where a key begins in ``names`` uint8

The footer says where each table lies and which source the store was made of. It comes last, so a
store that was cut has none.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

VERSION = 1
MAGIC = b"MASKSTO1"
BROKEN = 2**32 - 1
TABLES: dict[str, str] = {
    "offset": "<u8",
    "size": "<u4",
    "area": "<u4",
    "first": "<u8",
    "hash": "<u8",
    "order": "<u8",
    "name": "<u8",
    "names": "<u1",
}
_END = struct.Struct(f"<QI{len(MAGIC)}s")


class StoreError(ValueError):
    """A store that is not whole, or of another version."""


def key_hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def write_tables(
    file: BinaryIO, tables: Mapping[str, np.ndarray], described: Mapping[str, Any]
) -> None:
    """Write the tables and the footer behind the texts; ``described`` goes into the footer."""
    places = {}
    for name, kind in TABLES.items():
        file.write(bytes(-file.tell() % 8))
        values = np.ascontiguousarray(tables[name], dtype=kind)
        places[name] = [file.tell(), len(values.reshape(-1))]
        file.write(values.tobytes())
    footer = json.dumps({"version": VERSION, "tables": places, **described}).encode()
    file.write(footer)
    file.write(_END.pack(len(footer), zlib.crc32(footer), MAGIC))


def read_footer(path: Path) -> dict[str, Any]:
    """The footer of a store.

    Raises:
        StoreError: the file was cut, or is no store of this version.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < len(MAGIC) + _END.size or file.read(len(MAGIC)) != MAGIC:
            raise StoreError(f"{path}: not a mask store of this version")
        file.seek(size - _END.size)
        length, checksum, magic = _END.unpack(file.read(_END.size))
        if magic != MAGIC or length > size - _END.size - len(MAGIC):
            raise StoreError(f"{path}: the mask store is cut")
        file.seek(size - _END.size - length)
        footer = file.read(length)
    if zlib.crc32(footer) != checksum:
        raise StoreError(f"{path}: the mask store's footer is damaged")
    content = json.loads(footer)
    if content["version"] != VERSION:
        raise StoreError(f"{path}: a mask store of version {content['version']}, not {VERSION}")
    return content


def map_tables(path: Path, footer: Mapping[str, Any]) -> tuple[mmap.mmap, dict[str, np.ndarray]]:
    """The file, mapped read-only, and its tables as views of it."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tables = {
        name: np.frombuffer(mapped, dtype=kind, offset=place, count=count)
        for name, kind in TABLES.items()
        for place, count in [footer["tables"][name]]
    }
    tables["size"] = tables["size"].reshape(-1, 2)
    return mapped, tables
