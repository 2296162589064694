"""Pickles as plain data.

A pickle is a program: it can import and call anything. The annotation pickles of this field
(``refs(unc).p``, ``mask_dict.pkl``) hold containers, numbers and text only, none of which needs
an import, so this reader refuses every import and thereby every call.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise _RefusedError(f"{module}.{name}")


class _RefusedError(Exception):
    """A pickle asked for a global, named by the message."""


def load_plain_pickle(path: str | Path) -> Any:
    """Load a pickle of dicts, lists, tuples, numbers, text and bytes.

    Text of Python 2 pickles, as RefCOCO's are, is read as Latin-1 (a superset of ASCII).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the pickle asks for a class or function (named in the message), or is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such pickle; is the dataset complete?")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except _RefusedError as error:
        raise ValueError(
            f"{path}: refused, the pickle asks for {error}, and only plain data (dicts, lists, "
            "numbers, text) is admitted; if you trust it, save its content as such"
        ) from error
    except _BROKEN as error:
        raise ValueError(
            f"{path}: not a whole pickle ({type(error).__name__}: {error}); download it again"
        ) from error


# What the unpickler raises on bytes that are no pickle, are cut, or are put together wrongly.
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
)
