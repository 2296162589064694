"""Events in time: what a person does when, in words, and how it shows in a video's features.

A video is a row of unit vectors, as an image encoder gives them frame by frame: a scene that stays,
the direction of whatever happens at the moment, and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FPS = 10  # feature vectors a second, as the field extracts them
WIDTH = 32  # of a feature vector
FRAMES = (100, 300)  # of a video, both included: 10 to 30 seconds
_TWO = 0.05  # how often a video has two events; telling them apart takes longer to learn
_ALONE, _ONE_OF_TWO = (0.15, 0.6), (0.1, 0.4)  # length of an event, as a share of the video
_SCENE, _EVENT, _NOISE = 0.4, 1.0, 0.5  # lengths of the vectors that a frame consists of
_ACTION = 0.6  # how much all events have in common: that somebody is doing something

EVENTS: dict[str, tuple[str, str]] = {
    "open door": ("a person opens the door.", "person opening a door."),
    "close window": ("a person closes the window.", "person closing a window."),
    "drink cup": ("a person drinks from a cup.", "person drinking from the cup."),
    "put book": ("a person puts a book on the shelf.", "person putting the book on a shelf."),
    "take phone": ("a person takes the phone.", "person taking a phone."),
    "sit chair": ("a person sits down on a chair.", "person sitting down on the chair."),
    "throw pillow": ("a person throws the pillow.", "person throwing a pillow."),
    "wash dishes": ("a person washes the dishes.", "person washing some dishes."),
}


@dataclass(frozen=True)
class Event:
    """Something that happens from frame ``first`` to frame ``last``, both included.

    Attributes:
        name: a key of ``EVENTS``.
        sentence: how it is asked for.
    """

    name: str
    sentence: str
    first: int
    last: int

    @property
    def start(self) -> float:
        """Seconds."""
        return self.first / FPS

    @property
    def end(self) -> float:
        """Seconds."""
        return self.last / FPS


@dataclass(frozen=True)
class Video:
    """``frames`` feature vectors of one or two different events, which do not overlap."""

    events: tuple[Event, ...]
    features: np.ndarray  # float16 [frames, WIDTH], rows of unit length

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.features) / FPS


def directions(seed: int) -> dict[str, np.ndarray]:
    """A unit vector for each event: the same in all videos of a world."""
    drawn = np.random.default_rng([seed, WIDTH]).normal(size=(1 + len(EVENTS), WIDTH))
    action, *own = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    shows = [_ACTION * action + (1 - _ACTION**2) ** 0.5 * vector for vector in own]
    return {name: show / np.linalg.norm(show) for name, show in zip(EVENTS, shows, strict=True)}


def draw_video(rng: np.random.Generator, shows: dict[str, np.ndarray]) -> Video:
    """A video of random length; ``shows`` is :func:`directions`."""
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    count = 2 if rng.random() < _TWO else 1
    names = rng.permutation(list(EVENTS))[:count]
    events = tuple(
        Event(name, EVENTS[name][int(rng.integers(2))], first, last)
        for name, (first, last) in zip(names.tolist(), _spans(rng, frames, count), strict=True)
    )
    return Video(events, _features(rng, frames, events, shows))


def vocabulary() -> set[str]:
    """Every word of the sentences."""
    sentences = " ".join(sentence for pair in EVENTS.values() for sentence in pair)
    return set(sentences.replace(".", "").split())


def _spans(rng: np.random.Generator, frames: int, count: int) -> list[tuple[int, int]]:
    """First and last frame of each event, in the order of time."""
    shares = rng.uniform(*(_ALONE if count == 1 else _ONE_OF_TWO), size=count)
    lengths = np.maximum((shares * frames).astype(int), 2)
    gaps = rng.dirichlet(np.ones(count + 1)) * (frames - lengths.sum())
    starts = np.floor(gaps[:-1]).astype(int).cumsum() + np.concatenate([[0], lengths.cumsum()[:-1]])
    return [(int(s), int(s + n - 1)) for s, n in zip(starts, lengths, strict=True)]


def _features(
    rng: np.random.Generator, frames: int, events: Sequence[Event], shows: dict[str, np.ndarray]
) -> np.ndarray:
    scene = rng.normal(size=WIDTH)
    features = np.tile(_SCENE * scene / np.linalg.norm(scene), (frames, 1))
    for event in events:
        features[event.first : event.last + 1] += _EVENT * shows[event.name]
    features += _NOISE * rng.normal(size=features.shape) / np.sqrt(WIDTH)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float16)
