"""Mask dictionaries as released: ``{anno_id: [RLE or null, one per frame]}``, json or pickle.

A json is read piece by piece: what is held is one track, not the parsed gigabyte. A pickle can only
be read whole; it is read by an unpickler that admits plain data.

ReVOS's ``mask_dict_foreground.json`` has ``{video: {"masks_rle": [...], ...}}``: the same, one
level deeper.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from projects.common.plain_pickle import load_plain_pickle

_CHUNK = 1 << 22  # characters read at once
_SLACK = 1 << 20  # a mistake this far before the end of what was read is not for want of more
_BLOCK, _BLOCKS = 1 << 16, 16
_WHITESPACE = " \t\r\n"
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
    items = _pickle_items(path) if path.suffix in (".pkl", ".p", ".pickle") else _json_items(path)
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


def _json_items(path: Path) -> Iterator[tuple[str, Any, int]]:
    with path.open("rb") as file:
        text = _Text(path, io.TextIOWrapper(file, encoding="utf-8"))
        if text.next() != "{":
            raise ValueError(f"{path}: expected an object of anno_ids; this is no mask dictionary")
        text.skip()
        if text.next() == "}":
            return
        while True:
            key = text.value()
            if not isinstance(key, str) or text.next() != ":":
                raise text.error("expected a key and a colon")
            text.skip()
            yield key, text.value(), file.tell()
            following = text.next()
            if following not in (",", "}"):
                raise text.error("expected a comma or the closing brace")
            text.skip()
            if following == "}":
                break
        if text.next() != "":
            raise text.error("more text after the end")


class _Text:
    """A window on a json file that grows until the value that is asked for fits."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.window, self.at, self.before = "", 0, 0
        self.decoder = json.JSONDecoder()

    def next(self) -> str:
        """The next character that is no whitespace; empty at the end of the file."""
        while True:
            while self.at < len(self.window) and self.window[self.at] in _WHITESPACE:
                self.at += 1
            if self.at < len(self.window):
                return self.window[self.at]
            if not self._more():
                return ""

    def skip(self) -> None:
        self.at += 1

    def value(self) -> Any:
        """The value that begins at the next character."""
        self.next()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.window, self.at)
            except json.JSONDecodeError as error:
                mistake = self.error(error.msg, error.pos)
                if error.pos < len(self.window) - _SLACK or not self._more():
                    raise mistake from error
                continue
            self.at = end
            return value

    def error(self, message: str, at: int | None = None) -> ValueError:
        place = self.before + (self.at if at is None else at)
        return ValueError(
            f"{self.path}: not valid JSON at character {place} ({message}); download it again"
        )

    def _more(self) -> bool:
        """Read on: as much again as the value has so far, so that a long one costs no square."""
        try:
            text = self.file.read(max(_CHUNK, len(self.window) - self.at))
        except UnicodeDecodeError as error:
            raise self.error(str(error)) from error
        self.before += self.at
        self.window, self.at = self.window[self.at :] + text, 0
        return bool(text)
