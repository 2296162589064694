"""What the records of annotation files must hold; what is wrong with one is said in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# What a field can be asked to be, and whether a value is that.
KINDS: dict[str, Callable[[Any], bool]] = {
    "anything": lambda value: True,
    "text": lambda value: isinstance(value, str),
    "an id": lambda value: _whole(value) or isinstance(value, str),
    "an id or a list of ids": lambda value: all(
        _whole(item) or isinstance(item, str)
        for item in (value if isinstance(value, list) else [value])
    ),
    "a number of pixels": lambda value: _whole(value) and value > 0,
    "a list": lambda value: isinstance(value, list),
    "a list of objects": lambda value: (
        isinstance(value, list) and all(isinstance(item, dict) for item in value)
    ),
    "an object": lambda value: isinstance(value, dict),
}


def wrong_field(record: Any, fields: Mapping[str, str]) -> str | None:
    """What a record lacks, or which of its fields is something else than asked for; None: nothing.

    Args:
        record: from an annotation file, hence anything.
        fields: name -> one of ``KINDS``.
    """
    if not isinstance(record, dict):
        return f"is {_shown(record)}, not an object"
    lacking = [name for name in fields if name not in record]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    for name, kind in fields.items():
        if not KINDS[kind](record[name]):
            return f"has {_shown(record[name])} as {name!r}, not {kind}"
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
