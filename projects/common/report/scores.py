"""Flat score keys as tables, and what they say that a model cannot do.

A key is ``<benchmark>[_baseline_<name>|_no_visual]/<metric>[[<family>]]``. A family is what an
expression uses: ``colour``; ``only colour+shape`` for exactly these two; ``needs colour`` where it
would be ambiguous without. A baseline is a trivial answer to the same questions (everything, the
largest object, a random one), ``no_visual`` the same model with its visual tokens set to zero.
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
    ("charades", "Time spans"),
)

_USES = ("colour", "shape", "size", "motion", "relation", "several")
_ONLY, _NEEDS = "only ", "needs "

ENOUGH = 10  # expressions that a family needs before it is called a weakness
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
    def plain_families(self) -> list[str]:
        """``colour``, ``needs colour``, ``only colour``, ``shape``, ...: those of one use."""
        known = {use: index for index, use in enumerate(_USES)}

        def order(family: str) -> tuple[int, str, str]:
            return (
                known.get(use_of(family), len(known)),
                use_of(family),
                family[: -len(use_of(family))],
            )

        return sorted((f for f in self.families if "+" not in f), key=order)

    def telling_families(self, counts: Mapping[str | None, int]) -> list[str]:
        """Of each use the families that test it: where it is needed, else all of it and alone.

        Families of fewer than ``ENOUGH`` expressions are passed over.
        """
        enough = [f for f in self.plain_families if counts.get(f, ENOUGH) >= ENOUGH]
        needed = {use_of(f) for f in enough if f.startswith(_NEEDS)}
        return [f for f in enough if f.startswith(_NEEDS) or use_of(f) not in needed]

    @property
    def combined_families(self) -> list[str]:
        """``only colour+shape``, ...: exactly these things, fewest first."""
        combined = [f for f in self.families if "+" in f]
        return sorted(combined, key=lambda family: (family.count("+"), family))

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
    """One table a benchmark, in the order of ``display_order``.

    Benchmarks of which only baselines are known are left out: there is no model to speak of.
    """
    parsed = [(*split_key(key), value) for key, value in scores.items()]
    names = dict.fromkeys(row[0] for row in parsed if row[3] == MODEL)
    tables = [_table(name, [row[1:] for row in parsed if row[0] == name]) for name in names]
    return sorted(tables, key=lambda table: display_order(table.benchmark))


def kind_of(benchmark: str) -> str:
    """What a benchmark measures, in words; its name where that is unknown."""
    index = kind_index(benchmark)
    return KINDS[index][1] if index < len(KINDS) else benchmark


def display_order(benchmark: str) -> tuple[int, bool, str]:
    """Sort key: by kind, validation splits before others, by name."""
    return kind_index(benchmark), "val" not in benchmark, benchmark


def kind_index(benchmark: str) -> int:
    """Place of a benchmark's kind in ``KINDS``; behind them all where it is unknown."""
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


def use_of(family: str) -> str:
    """``colour`` of ``colour``, ``only colour`` and ``needs colour``."""
    return family.removeprefix(_ONLY).removeprefix(_NEEDS)


def family_words(family: str | None) -> str:
    """``only shape`` -> ``shape alone``, ``needs shape`` -> ``shape where it decides``."""
    if family is None:
        return "all"
    if family.startswith(_NEEDS):
        return f"{words(use_of(family))} where it decides"
    if not family.startswith(_ONLY):
        return words(family)
    return f"{' and '.join(words(family.removeprefix(_ONLY)).split('+'))} alone"


@dataclass(frozen=True)
class Limits:
    """What one benchmark's scores show that the model cannot do.

    Attributes:
        name: the benchmark in words.
        weak: family in words -> a clause with its numbers.
        unmoved: family in words -> scores with and without visual tokens, where they hardly differ.
        metric: of these scores.
    """

    name: str
    metric: str
    weak: dict[str, str]
    unmoved: dict[str, tuple[float, float]]


def find_limits(
    tables: list[Table], counts: Mapping[str, Mapping[str | None, int]]
) -> list[Limits]:
    """The limits of each benchmark that has any.

    Args:
        tables: of ``build_tables``.
        counts: benchmark -> family -> number of expressions, where known; families with fewer than
            ``ENOUGH`` are passed over.
    """
    found = [_limits_of(table, counts.get(table.benchmark, {})) for table in tables]
    return [limits for limits in found if limits.weak or limits.unmoved]


def limits_sentence(limits: list[Limits]) -> str:
    """All limits in a sentence or two, without numbers."""
    weak = [f"{x.name}: {', '.join(x.weak)}" for x in limits if x.weak]
    blind = [f"{x.name}: {', '.join(x.unmoved)}" for x in limits if x.unmoved]
    parts = []
    if weak:
        parts.append(f"Below {LOW:.2f} or little better than a trivial answer: {'; '.join(weak)}.")
    if blind:
        parts.append(f"The language model does not look at the picture for {'; '.join(blind)}.")
    return " ".join(parts) or "No family of expressions scored low or close to a trivial answer."


def _limits_of(table: Table, counts: Mapping[str | None, int]) -> Limits:
    families: list[str | None] = [*table.telling_families(counts)]
    limits = Limits(_name(table), table.metric, {}, {})
    for family in families or [None]:
        seeing = table.cells.get((family, MODEL))
        unseeing = table.cells.get((family, NO_VISUAL))
        if seeing is None:
            continue
        weakness = _weakness(table, family, seeing)
        if weakness is not None:
            number = f"; {counts[family]} expressions" if family in counts else ""
            limits.weak[family_words(family)] = f"{weakness}{number}"
        if unseeing is not None and seeing - unseeing < UNMOVED:
            limits.unmoved[family_words(family)] = (seeing, unseeing)
    return limits


def _weakness(table: Table, family: str | None, value: float) -> str | None:
    baseline = table.best_baseline(family)
    if baseline is not None and value < baseline[1] + NEAR:
        compared = "worse than" if value < baseline[1] else "hardly better than"
        trivial = f"{compared} selecting {baseline_words(baseline[0])} ({baseline[1]:.3f})"
        return f"{table.metric} {value:.3f}, {trivial}"
    if value < LOW:
        return f"{table.metric} {value:.3f}, below {LOW:.2f}"
    return None


def baseline_words(name: str) -> str:
    """``largest`` -> ``the largest object``."""
    known = {"largest": "the largest object", "random": "a random object"}
    return known.get(name, words(name))


def _name(table: Table) -> str:
    kind = kind_of(table.benchmark)
    return kind if kind == table.benchmark else f"{kind} ({table.benchmark})"
