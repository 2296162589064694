"""Phrases: what an expression can say of a scene, in words, and what that is true of.

the [leftmost] [small] [red] circle [moving left] [behind the blue square]
all | both | the two [small] [red] circles [moving left]
"""

from __future__ import annotations

from dataclasses import dataclass

from projects.toy_world.drawing import COLOURS, SHAPES
from projects.toy_world.facts import EXTENTS, EXTREMES, SIDES, Facts
from projects.toy_world.scene import DIRECTIONS, SIZES, Scene, Thing

MOTION_WORDS: dict[str, str] = {
    **{direction: f"moving {direction}" for direction in DIRECTIONS},
    "still": "staying still",
    "around": "moving around",
}
COUNT_WORDS: dict[int, str] = {2: "two", 3: "three", 4: "four"}
OVERLAPS = ("in front of", "behind")
PASSING = ("passing", "passed by")
LOOKS = ("size", "colour", "shape", "motion")


@dataclass(frozen=True)
class Phrase:
    """What an expression says; None where it says nothing.

    Attributes:
        best: "leftmost", "largest", ...: of the things that fit the rest.
        relation: "left of", "behind", ... another thing.
        plural: it means every thing that fits.
    """

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    best: str | None = None
    relation: Relation | None = None
    plural: bool = False


@dataclass(frozen=True)
class Relation:
    """``word`` and the thing that it relates to: its number, and the phrase that names it."""

    word: str
    landmark: int
    name: Phrase


def targets_of(phrase: Phrase, facts: Facts) -> tuple[int, ...] | None:
    """The things that a phrase is true of, ascending; None where that is hard to say."""
    things = facts.scene.things
    fitting = [index for index, thing in enumerate(things) if _looks(phrase, thing)]
    if phrase.relation is not None:
        verdicts = [_related(phrase.relation, facts, index) for index in fitting]
        if None in verdicts:
            return None
        fitting = [index for index, holds in zip(fitting, verdicts, strict=True) if holds]
    if phrase.best is not None:
        if len(fitting) < 2:
            return None  # "the leftmost" of one is no way to speak
        choose = facts.extreme if phrase.best in EXTREMES else facts.extent
        best = choose(phrase.best, fitting)
        return None if best is None else (best,)
    return tuple(fitting)


def text_of(phrase: Phrase, determiner: str = "the") -> str:
    """The words of a phrase."""
    noun = phrase.shape or "shape"
    words = [determiner, phrase.best, phrase.size, phrase.colour]
    words.append(noun + "s" if phrase.plural else noun)
    if phrase.motion is not None:
        words.append(MOTION_WORDS[phrase.motion])
    if phrase.relation is not None:
        words += [phrase.relation.word, text_of(phrase.relation.name)]
    return " ".join(word for word in words if word)


def vocabulary() -> set[str]:
    """Every word that an expression can contain."""
    words = {"the", "all", "both", "shape", "shapes", *COUNT_WORDS.values()}
    words |= {*COLOURS, *SIZES, *SHAPES, *(f"{shape}s" for shape in SHAPES)}
    words |= {*EXTREMES, *EXTENTS}
    for several in (*MOTION_WORDS.values(), *SIDES, *OVERLAPS, *PASSING):
        words |= set(several.split())
    return words


def landmark_phrase(scene: Scene, index: int) -> Phrase | None:
    """The look by which a landmark is named: colour and shape, with its size if that is needed."""
    thing = scene.things[index]
    for phrase in (
        Phrase(colour=thing.colour, shape=thing.shape),
        Phrase(size=thing.size, colour=thing.colour, shape=thing.shape),
    ):
        if [_looks(phrase, other) for other in scene.things].count(True) == 1:
            return phrase
    return None


def uses_of(phrase: Phrase) -> tuple[str, ...]:
    """What a phrase mentions: colour, shape, size, motion, relation, several."""
    named = [phrase] if phrase.relation is None else [phrase, phrase.relation.name]
    said = [
        name
        for name in ("colour", "shape", "size")
        if any(getattr(one, name) is not None for one in named)
    ]
    said += ["motion"] if phrase.motion or _is_passing(phrase) else []
    said += ["relation"] if phrase.best or phrase.relation else []
    return tuple(said + (["several"] if phrase.plural else []))


def needs_of(phrase: Phrase, targets: tuple[int, ...], facts: Facts) -> tuple[str, ...]:
    """What cannot be left out: without it the phrase names other things, or nothing clearly."""
    slots = {name: {name: None} for name in LOOKS} | {"relation": {"best": None, "relation": None}}
    if _is_passing(phrase):
        slots["motion"] = slots["relation"]
    without = {name: Phrase(**{**vars(phrase), **emptied}) for name, emptied in slots.items()}
    return tuple(
        name
        for name, shorter in without.items()
        if shorter != phrase and targets_of(shorter, facts) != targets
    )


def _looks(phrase: Phrase, thing: Thing) -> bool:
    return all(getattr(phrase, name) in (None, getattr(thing, name)) for name in LOOKS)


def _related(relation: Relation, facts: Facts, index: int) -> bool | None:
    word, other = relation.word, relation.landmark
    if index == other:
        return False
    if word in SIDES:
        return facts.beside(word, index, other)
    holds = facts.in_front if word in OVERLAPS else facts.passes
    turned = word in ("behind", "passed by")
    return holds(other, index) if turned else holds(index, other)


def _is_passing(phrase: Phrase) -> bool:
    return phrase.relation is not None and phrase.relation.word in PASSING
