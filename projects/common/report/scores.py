"""Flat score keys as tables, and what they say that a model cannot do.

A key is ``<benchmark>[_baseline_<name>|_no_visual]/<metric>[[<family>]]``: a family is what an
expression uses (colour, motion, ...), a baseline a trivial answer to the same questions
(everything, the largest object, a random one), ``no_visual`` the same model with its visual tokens
set to zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MODEL, NO_VISUAL = "model", "no_visual"
_KEY = re.compile(r"(?P<benchmark>[^/]+)/(?P<metric>[^\[\]]+)(?:\[(?P<family>.+)\])?")
_VARIANT = re.compile(r"(?P<benchmark>.+?)_(?:baseline_(?P<baseline>.+)|(?P<ablation>no_visual))")
# Which metric leads where a benchmark has several.
PREFERENCE = ("J&F", "cIoU", "gIoU", "J", "F", "R1@0.5", "mIoU", "click_iou", "box_iou")

# Benchmarks by how their names start, in the order in which they are shown.
KINDS = (
    ("refcoco", "Referring images"),
    ("mevis", "Referring videos"),
    ("davis", "Masks through a video"),
    ("sav", "Masks through a video"),
    ("click", "Clicks and boxes"),
    ("temporal", "Time spans"),
)

LOW = 0.5  # below it, most answers do not cover half of what they should
NEAR = 0.1  # within it of a trivial baseline, words or pictures hardly helped
UNMOVED = 0.05  # a smaller fall without visual tokens means that they were not used


@dataclass
class Table:
    """Scores of one benchmark.

    Attributes:
        benchmark: name in the config.
        metric: the leading metric, by family where families were measured.
        overall: metric -> score of the model.
        variants: ``model`` first, then ``no_visual`` and the baselines that were measured.
        families: what expressions use, in the order of the keys.
        cells: (family or None for all, variant) -> score in ``metric``.
    """

    benchmark: str
    metric: str = ""
    overall: dict[str, float] = field(default_factory=dict)
    variants: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    cells: dict[tuple[str | None, str], float] = field(default_factory=dict)

    @property
    def baselines(self) -> list[str]:
        return [v for v in self.variants if v not in (MODEL, NO_VISUAL)]

    @property
    def headline(self) -> str:
        """The metric for the big number: the preferred one of those measured overall."""
        return _first(self.overall, PREFERENCE)

    def best_baseline(self, family: str | None) -> tuple[str, float] | None:
        """The strongest trivial answer: on this family, else on all."""
        for row in (family, None):
            found = [(v, self.cells[row, v]) for v in self.baselines if (row, v) in self.cells]
            if found:
                return max(found, key=lambda pair: pair[1])
        return None


def split_key(key: str) -> tuple[str, str, str | None, str]:
    """A flat key as (benchmark, metric, family or None, variant).

    Raises:
        ValueError: the key has no ``/``.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(
            f"score key {key!r}: need '<benchmark>/<metric>' or '.../<metric>[<family>]'"
        )
    benchmark, variant = match["benchmark"], MODEL
    special = _VARIANT.fullmatch(benchmark)
    if special is not None:
        benchmark = special["benchmark"]
        variant = special["baseline"] or special["ablation"]
    return benchmark, match["metric"], match["family"], variant


def build_tables(scores: Mapping[str, float]) -> list[Table]:
    """One table a benchmark, those of a kind together.

    Benchmarks of which only baselines are known are left out: there is no model to speak of.
    """
    parsed = [(*split_key(key), value) for key, value in scores.items()]
    names = dict.fromkeys(row[0] for row in parsed if row[3] == MODEL)
    tables = [_table(name, [row[1:] for row in parsed if row[0] == name]) for name in names]
    return sorted(tables, key=lambda table: _kind_index(table.benchmark))


def kind_of(benchmark: str) -> str:
    """What a benchmark measures, in words; its name where that is unknown."""
    index = _kind_index(benchmark)
    return KINDS[index][1] if index < len(KINDS) else benchmark


def _kind_index(benchmark: str) -> int:
    starts = (i for i, (start, _) in enumerate(KINDS) if benchmark.startswith(start))
    return next(starts, len(KINDS))


def _table(name: str, rows: list[tuple[str, str | None, str, float]]) -> Table:
    table = Table(name)
    table.overall = {m: value for m, family, v, value in rows if v == MODEL and family is None}
    measured_by_family = [m for m, family, v, _ in rows if family is not None and v == MODEL]
    table.metric = _first(measured_by_family or table.overall, PREFERENCE)
    table.families = list(dict.fromkeys(f for m, f, v, _ in rows if f and v == MODEL))
    variants = dict.fromkeys(v for m, _, v, _ in rows if m == table.metric)
    table.variants = sorted(variants, key=lambda v: (v != MODEL, v != NO_VISUAL))
    table.cells = {(family, v): value for m, family, v, value in rows if m == table.metric}
    return table


def _first(candidates: Mapping[str, float] | list[str], preference: tuple[str, ...]) -> str:
    return next((name for name in preference if name in candidates), next(iter(candidates), ""))


def words(name: str) -> str:
    """A key's part as words: ``largest_object`` -> ``largest object``."""
    return name.replace("_", " ")


def limits(tables: list[Table]) -> list[str]:
    """Sentences about what the scores show that the model cannot do, with the numbers."""
    return [sentence for table in tables for sentence in _limits_of(table)]


def _limits_of(table: Table) -> list[str]:
    found = []
    for family in table.families or [None]:
        value = table.cells.get((family, MODEL))
        if value is None:
            continue
        what = f"{table.benchmark}, {words(family)}" if family else table.benchmark
        score = f"{table.metric} {value:.2f}"
        baseline = table.best_baseline(family)
        if baseline is not None and value < baseline[1] + NEAR:
            side = "worse than" if value < baseline[1] else "hardly better than"
            found.append(
                f"{what}: {score}, {side} the trivial answer '{words(baseline[0])}' "
                f"({baseline[1]:.2f})."
            )
        elif value < LOW:
            found.append(f"{what}: {score}, below {LOW:.2f}; more often wrong than right.")
    return found + _unmoved(table)


def _unmoved(table: Table) -> list[str]:
    """Families whose score stays when the language model sees nothing."""
    pairs = {
        family: (table.cells[family, MODEL], table.cells[family, NO_VISUAL])
        for family in [*table.families, None]
        if (family, MODEL) in table.cells and (family, NO_VISUAL) in table.cells
    }
    blind = {f: pair for f, pair in pairs.items() if pair[0] - pair[1] < UNMOVED}
    if not blind:
        return []
    named = {f: pair for f, pair in blind.items() if f is not None} or blind
    numbers = "; ".join(
        f"{words(f or 'all')} {seeing:.2f} -> {unseeing:.2f}"
        for f, (seeing, unseeing) in named.items()
    )
    return [
        f"{table.benchmark}: zeroing the language model's visual tokens changes {table.metric} by "
        f"less than {UNMOVED:.2f} here ({numbers}): the language model passes the words on without "
        f"looking; only SAM 2 looks."
    ]
