"""Large json files piece by piece: what is held is one value, not the parsed gigabyte.

{"key": value, ...}  ─► json_items    key, value, bytes of the file that have been read so far
[value, ...]         ─► json_values   value, bytes
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_CHUNK = 1 << 22  # characters read at once
_SLACK = 1 << 20  # a mistake this far before the end of what was read is not for want of more
_OPEN = 3  # characters of a number behind which it may go on: "1.5" is read of "1.5e-" and "7"
_WHITESPACE = " \t\r\n"


def json_items(path: Path, *, what: str = "values") -> Iterator[tuple[str, Any, int]]:
    """Key, value, and bytes read so far, of a file that is one object.

    Args:
        what: is in there, for the error.

    Raises:
        ValueError: the file is something else, or broken json, with the place.
    """
    with path.open("rb") as file:
        text = _Text(path, io.TextIOWrapper(file, encoding="utf-8"))
        text.opening("{", f"an object of {what}")
        for _ in text.entries("}"):
            key = text.value()
            if not isinstance(key, str) or text.next() != ":":
                raise text.error("expected a key and a colon")
            text.skip()
            yield key, text.value(), file.tell()


def json_values(path: Path, *, what: str = "values") -> Iterator[tuple[Any, int]]:
    """Value, and bytes read so far, of a file that is one list; otherwise as :func:`json_items`."""
    with path.open("rb") as file:
        text = _Text(path, io.TextIOWrapper(file, encoding="utf-8"))
        text.opening("[", f"a list of {what}")
        for _ in text.entries("]"):
            yield text.value(), file.tell()


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
            if len(self.window) - end < _OPEN and self._more():
                continue
            self.at = end
            return value

    def opening(self, bracket: str, what: str) -> None:
        """Pass the bracket that the file begins with."""
        first = self.next()
        if first != bracket:
            known = {"{": "dict", "[": "list", "": "nothing"}
            found = known.get(first) or type(self.value()).__name__
            raise ValueError(f"{self.path}: expected {what}, found {found}")
        self.skip()

    def entries(self, closing: str) -> Iterator[None]:
        """Stop before each entry of a list or an object, up to its end, which is the file's."""
        following = self.next()
        while following != closing:
            yield
            following = self.next()
            if following not in (",", closing):
                raise self.error(f"expected a comma or the closing {closing}")
            if following == ",":
                self.skip()
        self.skip()
        if self.next() != "":
            raise self.error("more text after the end")

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
        if not text:
            return False
        self.before += self.at
        self.window, self.at = self.window[self.at :] + text, 0
        return True
