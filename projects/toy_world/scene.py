"""A scene: two to four shapes that lie or move on a background, and what is seen of them.

    SceneSpec ──► plan things (look, path) ──► stamps ──► acceptable? ──► frames and masks
                        ▲                                    │ no
                        └────────────────────────────────────┘

Things are ordered from the back to the front: a later one hides an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from projects.toy_world.drawing import COLOURS, SHAPES, Stamp, background, finish, paint, stamp

SIZES: dict[str, tuple[float, float]] = {"small": (9.0, 12.0), "large": (17.0, 21.0)}  # radius, px
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
MOTIONS: tuple[str, ...] = (*DIRECTIONS, "still", "around")

_CIRCLE_RADIUS = 8.0  # px of the path of a thing that moves around
_SEEN = 0.35  # share of its area that counts as seen
_MAX_TRIES = 2000


@dataclass(frozen=True)
class SceneSpec:
    """What scenes to draw.

    Attributes:
        size: side of the square frame in pixels.
        frames: T; a scene of one frame is an image.
        rate: steps of motion a frame; 0.25 where every 4th frame is annotated.
        speed: pixels a step, lowest and highest.
        things: how many, lowest and highest; 2 to 4.
        twins: chances that two things share their colour only; colour and shape, not the size;
            the whole look, not the motion (in an image: not the size). The rest has no two of
            one colour, and without twins colour would decide nearly everything.
        crossing: chance that the path of one moving thing leads over another thing.
        leaving: chance that a thing that moves straight is planned to leave or enter the frame
            (fewer do: of plans in which something is hardly seen, none is taken).
        seen_at_start: every thing is seen on the first frame.
    """

    size: int = 128
    frames: int = 1
    rate: float = 1.0
    speed: tuple[float, float] = (4.0, 6.0)
    things: tuple[int, int] = (2, 4)
    twins: tuple[float, float, float] = (0.35, 0.12, 0.13)
    crossing: float = 0.4
    leaving: float = 0.35
    seen_at_start: bool = False

    def __post_init__(self) -> None:
        low, high = self.things
        if not 2 <= low <= high <= 4:
            raise ValueError(f"a scene has 2 to 4 things, not {low} to {high}")
        if self.size < 64:
            raise ValueError(f"frames of {self.size} pixels are too small for the shapes, take 64")


@dataclass(frozen=True)
class Thing:
    """One shape. ``path``: centres (x, y) in pixels, float [T, 2]; ``tint``: its own colour."""

    shape: str
    colour: str
    size: str
    motion: str
    radius: float
    angle: float
    tint: np.ndarray
    path: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        things: N of them, from the back to the front.
        frames: RGB uint8 [T, H, W, 3].
        masks: visible pixels, bool [T, N, H, W].
        hidden: pixels of thing b that thing a hides, int [T, N (a), N (b)].
    """

    things: tuple[Thing, ...]
    frames: np.ndarray
    masks: np.ndarray
    hidden: np.ndarray

    @property
    def is_video(self) -> bool:
        return len(self.frames) > 1


def sample_scene(rng: np.random.Generator, spec: SceneSpec) -> Scene:
    """Draw one scene; a function of the generator's state and ``spec`` alone."""
    for _ in range(_MAX_TRIES):
        things = _plan_things(rng, spec)
        stamps = [[_stamp_of(thing, t, spec.size) for thing in things] for t in range(spec.frames)]
        masks, hidden, full = _visibility(stamps, spec.size)
        if _acceptable(masks, full, spec):
            frames = _draw(rng, things, stamps, spec.size)
            return Scene(things=tuple(things), frames=frames, masks=masks, hidden=hidden)
    raise ValueError(
        f"{_MAX_TRIES} plans, and none in which everything is seen enough: {spec}; "
        "use a larger frame, fewer things or fewer frames"
    )


def _plan_things(rng: np.random.Generator, spec: SceneSpec) -> list[Thing]:
    count = int(rng.integers(spec.things[0], spec.things[1] + 1))
    things: list[Thing] = []
    for shape, colour, size, motion in _plan_kinds(rng, spec, count):
        radius = float(rng.uniform(*SIZES[size]))
        tint = np.clip(np.array(COLOURS[colour]) + rng.uniform(-10, 10, size=3), 0, 255)
        over = things[0] if len(things) == 1 else None
        thing = Thing(
            shape=shape,
            colour=colour,
            size=size,
            motion=motion,
            radius=radius,
            angle=float(rng.uniform(-0.22, 0.22)),
            tint=tint,
            path=_plan_path(rng, spec, motion, radius, over),
        )
        things.append(thing)
    return [things[i] for i in rng.permutation(count)]


def _plan_kinds(
    rng: np.random.Generator, spec: SceneSpec, count: int
) -> list[tuple[str, str, str, str]]:
    """(shape, colour, size, motion) of each thing; every value as likely as any other."""
    video = spec.frames > 1
    shapes = _draw_words(rng, SHAPES, count)
    colours = _draw_words(rng, COLOURS, count, replace=False)
    sizes = _draw_words(rng, SIZES, count)
    motions = _draw_words(rng, MOTIONS, count) if video else ["still"] * count
    kind = int(np.searchsorted(np.cumsum(spec.twins), rng.uniform(), side="right"))
    if kind < len(spec.twins):
        colours[1] = colours[0]
        shapes[1] = _other(rng, SHAPES, shapes[0]) if kind == 0 else shapes[0]
        if kind == 2 and video:
            sizes[1] = sizes[0]
            motions[1] = _other(rng, MOTIONS, motions[0])
        elif kind > 0:
            sizes[1] = _other(rng, SIZES, sizes[0])
    return list(zip(shapes, colours, sizes, motions, strict=True))


def _draw_words(
    rng: np.random.Generator, words: Iterable[str], count: int, replace: bool = True
) -> list[str]:
    return [str(word) for word in rng.choice(list(words), size=count, replace=replace)]


def _other(rng: np.random.Generator, words: Iterable[str], taken: str) -> str:
    return str(rng.choice([word for word in words if word != taken]))


def _plan_path(
    rng: np.random.Generator, spec: SceneSpec, motion: str, radius: float, over: Thing | None
) -> np.ndarray:
    """Centres [T, 2]: a relative path of the motion, moved to where it should pass."""
    steps = np.arange(spec.frames) * spec.rate
    speed = rng.uniform(*spec.speed)
    if motion in DIRECTIONS:
        relative = steps[:, None] * speed * np.array(DIRECTIONS[motion], dtype=np.float64)
    elif motion == "around":
        angles = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * steps * speed / _CIRCLE_RADIUS
        relative = _CIRCLE_RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        relative = np.zeros((spec.frames, 2))
    frame = int(rng.integers(spec.frames))
    place = rng.uniform(0.6 * radius, spec.size - 0.6 * radius, size=2)
    chance = rng.uniform()
    if over is not None and motion != "still" and chance < spec.crossing:
        frame = spec.frames // 2
        place = over.path[frame] + rng.uniform(-0.6, 0.6, size=2) * over.radius
    elif motion in DIRECTIONS and chance > 1 - spec.leaving:
        frame, place = _at_border(rng, spec, motion, radius, place)
    return relative - relative[frame] + place


def _at_border(
    rng: np.random.Generator, spec: SceneSpec, motion: str, radius: float, place: np.ndarray
) -> tuple[int, np.ndarray]:
    """Frame and centre of a thing that leaves (last frame) or enters (first frame)."""
    direction = np.array(DIRECTIONS[motion], dtype=np.float64)
    leaves = spec.seen_at_start or rng.uniform() < 0.5
    outward = direction if leaves else -direction
    beyond = rng.uniform(0.8, 1.8) * radius
    axis = int(np.flatnonzero(direction)[0])
    place = place.copy()
    place[axis] = spec.size + beyond if outward[axis] > 0 else -beyond
    return (spec.frames - 1 if leaves else 0), place


def _stamp_of(thing: Thing, frame: int, size: int) -> Stamp:
    return stamp(thing.shape, thing.path[frame], thing.radius, thing.angle, size, size)


def _visibility(stamps: list[list[Stamp]], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visible masks [T, N, H, W], hidden pixels [T, N, N], and full areas [N].

    The full area of a thing is the largest that it has inside the frame at any time.
    """
    frames, count = len(stamps), len(stamps[0])
    masks = np.zeros((frames, count, size, size), dtype=bool)
    hidden = np.zeros((frames, count, count), dtype=np.int64)
    full = np.zeros(count, dtype=np.int64)
    for t, row in enumerate(stamps):
        for n, drawn in enumerate(row):
            area = (drawn.rows, drawn.columns)
            full[n] = max(full[n], int(drawn.inside.sum()))
            for behind in range(n):
                taken = masks[t, behind][area] & drawn.inside
                hidden[t, n, behind] = taken.sum()
                masks[t, behind][area] &= ~drawn.inside
            masks[t, n][area] = drawn.inside
    return masks, hidden, full


def _acceptable(masks: np.ndarray, full: np.ndarray, spec: SceneSpec) -> bool:
    """Whether each thing is seen on over half of the frames (and at the start, if asked)."""
    seen = masks.sum(axis=(2, 3)) >= np.maximum(_SEEN * full, 30)[None]
    if spec.seen_at_start and not seen[0].all():
        return False
    return bool((seen.sum(axis=0) > spec.frames // 2).all())


def _draw(
    rng: np.random.Generator, things: list[Thing], stamps: list[list[Stamp]], size: int
) -> np.ndarray:
    backdrop = background(rng, size, size)
    frames = []
    for row in stamps:
        frame = backdrop.copy()
        for thing, drawn in zip(things, row, strict=True):
            paint(frame, drawn, thing.tint)
        frames.append(finish(rng, frame))
    return np.stack(frames)
