"""Make the store of a mask dictionary, once: whole or not at all, by one process of many.

is there and of this source? ─ yes ─► open
    │ no
lock ─► made by another meanwhile? ─ no ─► convert to a file of another name ─► rename
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from projects.common.mask_store.dictionary import identity, read_tracks
from projects.common.mask_store.layout import BROKEN, MAGIC, StoreError, key_hash, write_tables
from projects.common.mask_store.measure import BROKEN as UNREADABLE
from projects.common.mask_store.measure import measure
from projects.common.mask_store.store import MaskStore
from projects.common.masks import decode_rle, encode_rle, union
from projects.common.progress import Progress

logger = logging.getLogger(__name__)

SUFFIX = ".masks"
CACHE_VARIABLE = "MASK_STORE_CACHE"
_BATCH = 1 << 16  # characters measured at once: what the caches hold
_LARGE = 1 << 26  # bytes from which the conversion is worth a message


def open_masks(source: str | Path, *, cache: str | Path | None = None) -> MaskStore:
    """Open the store of a mask dictionary; make it first where there is none, or an outdated one.

    It lies beside its source as ``<name>.masks``. Where that folder cannot be written and has no
    store of this source, it lies in the user's cache; ``cache``, or the environment variable
    ``MASK_STORE_CACHE``, names another folder.

    Args:
        source: ``mask_dict.json`` or ``mask_dict.pkl``.
        cache: a folder for stores.

    Raises:
        FileNotFoundError, ValueError: no source, or not a mask dictionary. A broken mask is not an
            error here: it is one when it is read.
        OSError: nowhere to write it.
    """
    source = Path(source)
    wanted = identity(source)
    path = store_path(source, cache=cache)
    beside = _beside(source)
    places = [path] if _named(cache) or path == beside else [beside, path]
    for place in places:
        store = _matching(place, source, wanted)
        if store is not None:
            return store
    _make_folder(path.parent, source)
    with _locked(path.with_name(f".{path.name}.lock"), source):
        store = _matching(path, source, wanted)  # another process may have made it meanwhile
        if store is None:
            _make(path, source, wanted)
            store = MaskStore(path, source)
    return store


def store_path(source: Path, *, cache: str | Path | None = None) -> Path:
    """Where the store of a source is made (see :func:`open_masks`)."""
    named = _named(cache)
    if not named and os.access(source.parent, os.W_OK):
        return _beside(source)
    folder = Path(named) if named else _user_cache()
    place = hashlib.blake2b(str(source.resolve()).encode(), digest_size=8).hexdigest()
    return folder / f"{source.parent.name}-{place}-{source.name}{SUFFIX}"


def _beside(source: Path) -> Path:
    return source.with_name(source.name + SUFFIX)


def _named(cache: str | Path | None) -> str | Path | None:
    return cache or os.environ.get(CACHE_VARIABLE)


def _make_folder(folder: Path, source: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise OSError(
            f"{source}: its mask store has no place: neither its folder nor {folder} can be "
            f"written; name a folder that can by the environment variable {CACHE_VARIABLE}"
        )


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mask_stores"


def _matching(path: Path, source: Path, wanted: dict[str, Any]) -> MaskStore | None:
    """The store at ``path`` if it is whole and of this source."""
    if not path.is_file():
        return None
    try:
        store = MaskStore(path, source)
    except StoreError as error:
        logger.warning("%s; it is made anew", error)
        return None
    if store.identity != wanted:
        logger.info("%s has changed since its mask store was made; it is made anew", source)
        return None
    return store


@contextmanager
def _locked(lock: Path, source: Path) -> Iterator[None]:
    """One process at a time; the lock file is gone afterwards."""
    while True:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("%s: another process makes its mask store, waiting", source)
                fcntl.flock(file, fcntl.LOCK_EX)
            # whoever held the lock has removed the file: a lock on what is gone locks nobody out
            if not lock.exists() or os.fstat(file.fileno()).st_ino != lock.stat().st_ino:
                continue
            try:
                yield
            finally:
                lock.unlink()
            return


def _make(path: Path, source: Path, described: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    if described["size"] >= _LARGE:
        logger.info("%s: making its mask store %s, once", source, path)
    try:
        with partial.open("wb") as file:
            writer = _Writer(file)
            for key, track in _with_progress(source, described["size"]):
                writer.add(key, track)
            write_tables(file, writer.tables(source), {"source": described})
        if identity(source) != described:
            raise ValueError(
                f"{source}: it changed while it was read; start again when it is whole"
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _with_progress(source: Path, size: int) -> Iterator[tuple[str, list[Any]]]:
    """The tracks of a source; a large one shows how far it is, in megabytes."""
    if size < _LARGE:
        yield from ((key, track) for key, track, _ in read_tracks(source))
        return
    description = f"Mask store of {source.name}, MB"
    with Progress(total=size >> 20, description=description) as progress:
        for key, track, done in read_tracks(source):
            yield key, track
            if (done >> 20) > progress.done:
                progress.update((done >> 20) - progress.done)


class _Writer:
    """Collects the tables while the texts are written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.keys: list[str] = []
        self.frames: list[int] = []
        self.lengths: list[np.ndarray] = []
        self.sizes: list[np.ndarray] = []
        self.areas: list[np.ndarray] = []
        self._texts: list[bytes] = []
        self._waiting: list[tuple[int, int, bool]] = []  # height, width, known to be broken
        self._characters = 0
        file.write(MAGIC)

    def add(self, key: str, track: list[Any]) -> None:
        self.keys.append(key)
        self.frames.append(len(track))
        for record in track:
            text, height, width, broken = _parse(record)
            self._texts.append(text)
            self._waiting.append((height, width, broken))
            self._characters += len(text)
            if self._characters >= _BATCH:
                self._flush()

    def tables(self, source: Path) -> dict[str, np.ndarray]:
        self._flush()
        lengths, areas = _joined(self.lengths), _joined(self.areas)
        names = [key.encode() for key in self.keys]
        hashes = np.array([key_hash(key) for key in self.keys], dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        self._refuse_twins(hashes[order], order, source)
        return {
            "offset": np.concatenate([[0], np.cumsum(lengths)]) + len(MAGIC),
            "size": _joined(self.sizes).reshape(-1, 2),
            "area": areas,
            "first": np.concatenate([[0], np.cumsum(self.frames, dtype=np.int64)]),
            "hash": hashes[order],
            "order": order,
            "name": np.concatenate([[0], np.cumsum([len(name) for name in names], dtype=np.int64)]),
            "names": np.frombuffer(b"".join(names), dtype=np.uint8),
        }

    def _refuse_twins(self, hashes: np.ndarray, order: np.ndarray, source: Path) -> None:
        for place in np.flatnonzero(hashes[1:] == hashes[:-1]):
            first, second = self.keys[order[place]], self.keys[order[place + 1]]
            if first == second:
                raise ValueError(f"{source}: key {first!r} is there twice; which one is meant?")

    def _flush(self) -> None:
        """Measure and write what has been collected."""
        if not self._texts:
            return
        sizes = np.array([(h, w) for h, w, _ in self._waiting], dtype=np.int64)
        broken = np.array([b for _, _, b in self._waiting])
        lengths = np.array([len(text) for text in self._texts], dtype=np.int64)
        areas = np.where(broken, UNREADABLE, 0)
        usable = ~broken & (lengths > 0)
        chosen = b"".join(t for t, use in zip(self._texts, usable, strict=True) if use)
        areas[usable] = measure(
            np.frombuffer(chosen, dtype=np.uint8), lengths[usable], sizes[usable].prod(axis=1)
        )
        for number in np.flatnonzero(usable & (areas == UNREADABLE)):
            # kept as it was: what is wrong with it is said by whoever reads it
            height, width, _ = self._waiting[number]
            record = {"size": [height, width], "counts": self._texts[number].decode("latin-1")}
            self._texts[number] = json.dumps(record).encode()
            lengths[number] = len(self._texts[number])
        self.file.write(b"".join(self._texts))
        self.lengths.append(lengths)
        self.sizes.append(sizes.astype(np.uint32))
        self.areas.append(np.where(areas == UNREADABLE, BROKEN, areas).astype(np.uint32))
        self._texts, self._waiting, self._characters = [], [], 0


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _parse(record: Any) -> tuple[bytes, int, int, bool]:
    """A record's text, height, width, and whether it is seen to be broken already.

    Absent objects have no text. Plain counts (lists) and lists of several RLEs, whose union is
    meant, are compressed; what cannot be is kept as json.
    """
    if record is None or record == []:
        return b"", 0, 0, False
    if isinstance(record, list | tuple) or _has_plain_counts(record):
        try:
            record = _compressed(record)
        except ValueError:
            return json.dumps(record, default=repr).encode(), 0, 0, True
    if not _is_rle(record):
        return json.dumps(record, default=repr).encode(), 0, 0, True
    counts = record["counts"]
    text = (
        counts.encode("latin-1", "backslashreplace") if isinstance(counts, str) else bytes(counts)
    )
    return text, int(record["size"][0]), int(record["size"][1]), False


def _has_plain_counts(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("counts"), list | tuple)


def _compressed(record: Any) -> dict[str, Any]:
    if isinstance(record, dict):
        return encode_rle(decode_rle(record, where="record"))
    return encode_rle(union([decode_rle(part, where="record") for part in record]))


def _is_rle(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("counts"), str | bytes):
        return False
    size = record.get("size")
    return (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(type(side) is int and 0 < side < 2**31 for side in size)
        and len(record["counts"]) > 0
    )
