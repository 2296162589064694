"""Expressions of a scene, each true of exactly the things that it names.

All phrases that could be said of a scene are listed by family; those that single out one thing
(in the plural, at least two) and leave nothing hard to say are on offer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from projects.toy_world.facts import EXTENTS, EXTREMES, SIDES, Facts
from projects.toy_world.phrases import (
    COUNT_WORDS,
    LOOKS,
    OVERLAPS,
    PASSING,
    Phrase,
    Relation,
    landmark_phrase,
    needs_of,
    targets_of,
    text_of,
    uses_of,
)
from projects.toy_world.scene import Scene

# What the expressions are about, as weights.
IMAGE_FAMILIES: dict[str, float] = {
    "colour": 0.16,
    "shape": 0.12,
    "colour_shape": 0.46,
    "size": 0.08,
    "relation": 0.10,
    "several": 0.08,
}
VIDEO_FAMILIES: dict[str, float] = {
    "colour": 0.14,
    "shape": 0.06,
    "colour_shape": 0.36,
    "size": 0.06,
    "motion": 0.20,
    "relation": 0.08,
    "several": 0.10,
}
# What a family is there to teach, and how often an expression that can do without it is taken.
_POINT: dict[str, tuple[str, float]] = {
    "size": ("size", 0.0),
    "motion": ("motion", 0.0),
    "relation": ("relation", 0.0),
}


@dataclass(frozen=True)
class Expression:
    """An expression of a scene.

    Attributes:
        text: lower case, no full stop.
        targets: the things that it names, ascending.
        uses: what it mentions: colour, shape, size, motion, relation, several.
        needs: what of it cannot be left out.
    """

    text: str
    targets: tuple[int, ...]
    uses: tuple[str, ...]
    needs: tuple[str, ...]


def write_expressions(
    rng: np.random.Generator, scene: Scene, count: int, weights: Mapping[str, float]
) -> list[Expression]:
    """Up to ``count`` different expressions of a scene; families as likely as ``weights`` says.

    A family of which the scene offers nothing (more) is passed over. Within a family, all kinds
    (phrases that fill the same slots) are equally likely.

    Raises:
        ValueError: an unknown family, a negative weight, or nothing but zeros.
    """
    check_families(weights)
    facts = Facts(scene)
    offers = {
        family: _by_kind(FAMILIES[family](facts), facts)
        for family, weight in weights.items()
        if weight > 0
    }
    chosen: list[Expression] = []
    while len(chosen) < count:
        families = [family for family, kinds in offers.items() if kinds]
        if not families:
            break
        family = families[_pick(rng, [weights[name] for name in families])]
        expression = _express(rng, *_take(rng, offers[family]), facts)
        point, tolerance = _POINT.get(family, (None, 1.0))
        if point in expression.needs or rng.uniform() < tolerance:
            chosen.append(expression)
    return chosen


def check_families(weights: Mapping[str, float]) -> None:
    """Raise ValueError for weights that name unknown families or cannot be drawn from."""
    unknown = set(weights) - set(FAMILIES)
    if unknown:
        raise ValueError(
            f"no such family of expressions: {', '.join(sorted(unknown))}; known are "
            f"{', '.join(FAMILIES)}"
        )
    if any(weight < 0 for weight in weights.values()) or sum(weights.values()) <= 0:
        raise ValueError(f"family weights must be >= 0 and not all 0: {dict(weights)}")


def _phrases(
    facts: Facts, *names: str, free: Sequence[str] = (), base: Phrase | None = None
) -> Iterator[Phrase]:
    """Phrases that say ``names``, and each of ``free`` or not, with values that are present."""
    values = {
        name: list(dict.fromkeys(getattr(thing, name) for thing in facts.scene.things))
        for name in (*names, *free)
    }
    choices = [values[name] for name in names] + [[None, *values[name]] for name in free]
    fixed = {} if base is None else {k: v for k, v in vars(base).items() if k not in values}
    for said in product(*choices):
        yield Phrase(**fixed, **dict(zip(values, said, strict=True)))


def _relations(facts: Facts) -> Iterator[Phrase]:
    free = ("colour", "shape")
    for best in (*EXTREMES, *EXTENTS):
        yield from _phrases(facts, free=free, base=Phrase(best=best))
    words = (*SIDES, *OVERLAPS, *PASSING) if facts.scene.is_video else (*SIDES, *OVERLAPS)
    for landmark in range(len(facts.scene.things)):
        name = landmark_phrase(facts.scene, landmark)
        if name is None:
            continue  # there are two that look like it
        for word in words:
            relation = Relation(word, landmark, name)
            yield from _phrases(facts, free=free, base=Phrase(relation=relation))


def _several(facts: Facts) -> Iterator[Phrase]:
    plural = Phrase(plural=True)
    yield from _phrases(facts, "colour", free=("size", "shape"), base=plural)
    yield from _phrases(facts, "shape", free=("size",), base=plural)
    yield from _phrases(facts, "size", base=plural)
    if facts.scene.is_video:
        yield from _phrases(facts, "motion", free=("shape",), base=plural)
        yield from _phrases(facts, "motion", "colour", base=plural)


FAMILIES: dict[str, Callable[[Facts], Iterator[Phrase]]] = {
    "colour": lambda facts: _phrases(facts, "colour"),
    "shape": lambda facts: _phrases(facts, "shape"),
    "colour_shape": lambda facts: _phrases(facts, "colour", "shape"),
    "size": lambda facts: _phrases(facts, "size", free=("colour", "shape")),
    "motion": lambda facts: _phrases(facts, "motion", free=("colour", "shape")),
    "relation": _relations,
    "several": _several,
}
_Offers = dict[Hashable, list[tuple[Phrase, tuple[int, ...]]]]


def _by_kind(phrases: Iterator[Phrase], facts: Facts) -> _Offers:
    """The phrases that hold, with what they name, grouped by kind."""
    kinds: _Offers = {}
    for phrase in phrases:
        targets = targets_of(phrase, facts)
        if targets is not None and (len(targets) > 1 if phrase.plural else len(targets) == 1):
            kinds.setdefault(_kind(phrase), []).append((phrase, targets))
    return kinds


def _kind(phrase: Phrase) -> Hashable:
    if phrase.best is not None:
        return "place" if phrase.best in EXTREMES else "extent"
    if phrase.relation is not None:
        groups = {"side": SIDES, "overlap": OVERLAPS, "passing": PASSING}
        return next(name for name, words in groups.items() if phrase.relation.word in words)
    return tuple(getattr(phrase, name) is None for name in LOOKS)


def _take(rng: np.random.Generator, kinds: _Offers) -> tuple[Phrase, tuple[int, ...]]:
    """Remove and return a random phrase of a random kind."""
    kind = list(kinds)[int(rng.integers(len(kinds)))]
    taken = kinds[kind].pop(int(rng.integers(len(kinds[kind]))))
    if not kinds[kind]:
        del kinds[kind]
    return taken


def _express(
    rng: np.random.Generator, phrase: Phrase, targets: tuple[int, ...], facts: Facts
) -> Expression:
    determiner = "the"
    if phrase.plural:
        choices = ["all", "both" if len(targets) == 2 else f"the {COUNT_WORDS[len(targets)]}"]
        determiner = choices[int(rng.integers(2))]
    return Expression(
        text=text_of(phrase, determiner),
        targets=targets,
        uses=uses_of(phrase),
        needs=needs_of(phrase, targets, facts),
    )


def _pick(rng: np.random.Generator, weights: Sequence[float]) -> int:
    edges = np.cumsum(weights)
    return int(np.searchsorted(edges, rng.uniform() * edges[-1], side="right"))
