"""Scores over parts of the records: by what an expression uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Record = dict[str, Any]


def by_uses(
    records: Sequence[Record], metrics: Callable[[Sequence[Record]], Mapping[str, float]]
) -> dict[str, float]:
    """``metrics`` of parts of the records, keyed ``"<metric>[<part>]"``.

    Three kinds of part: ``[shape]`` has every expression that uses a shape word, among others
    perhaps; ``[only colour+shape]`` those that use exactly these; ``[needs shape]`` those that
    could not be told apart without it. Records without ``uses`` and ``needs`` belong to no part.
    """
    parts: dict[str, list[Record]] = {}
    for record in records:
        uses = sorted(record.get("uses") or ())
        names = [*uses, *(f"needs {need}" for need in record.get("needs") or ())]
        for part in names + ([f"only {'+'.join(uses)}"] if uses else []):
            parts.setdefault(part, []).append(record)
    return {
        f"{metric}[{part}]": value
        for part in sorted(parts)
        for metric, value in metrics(parts[part]).items()
    }
