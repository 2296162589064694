"""What a toy world consists of: seed, sizes, and the settings that shape it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from projects.toy_world.expressions import IMAGE_FAMILIES, VIDEO_FAMILIES, check_families

# Goes up whenever the same seed would give other bytes, so that old worlds are drawn anew.
VERSION = 7

FULL: dict[str, int] = {
    "refcoco_train": 1200,
    "refcoco_val": 100,
    "refcoco_testA": 60,
    "refcoco_testB": 60,
    "mevis_train": 800,
    "mevis_valid_u": 60,
    "sav_train": 150,
    "sav_val": 16,
    "davis_train": 150,
    "davis_val": 16,
    "charades_train": 1000,
    "charades_test": 100,
}
SMALL: dict[str, int] = {
    "refcoco_train": 240,
    "refcoco_val": 40,
    "refcoco_testA": 20,
    "refcoco_testB": 20,
    "mevis_train": 160,
    "mevis_valid_u": 24,
    "sav_train": 30,
    "sav_val": 8,
    "davis_train": 30,
    "davis_val": 8,
    "charades_train": 1000,
    "charades_test": 60,
}
SIZES: dict[str, dict[str, int]] = {"full": FULL, "small": SMALL}


@dataclass(frozen=True)
class World:
    """A toy world to write; equal worlds have equal bytes.

    Attributes:
        seed: of everything.
        sizes: images or videos of each split, keys as in ``FULL``; missing ones are 0.
        side: height and width of all frames in pixels (even, for mp4).
        clip_frames: frames of a referring (MeViS) video.
        davis_frames: frames of a DAVIS video.
        sav_frames: annotated frames of an SA-V video, which has four times as many in all.
        image_expressions, video_expressions: how many an image or video has at most.
        image_families, video_families: what they are about, as weights (see expressions.py).
    """

    seed: int = 0
    sizes: Mapping[str, int] = field(default_factory=lambda: dict(FULL))
    side: int = 128
    clip_frames: int = 6
    davis_frames: int = 8
    sav_frames: int = 8
    image_expressions: int = 4
    video_expressions: int = 5
    image_families: Mapping[str, float] = field(default_factory=lambda: dict(IMAGE_FAMILIES))
    video_families: Mapping[str, float] = field(default_factory=lambda: dict(VIDEO_FAMILIES))

    def __post_init__(self) -> None:
        unknown = set(self.sizes) - set(FULL)
        if unknown:
            raise ValueError(
                f"no such split: {', '.join(sorted(unknown))}; known: {', '.join(FULL)}"
            )
        negative = [name for name, size in self.sizes.items() if size < 0]
        if negative or self.seed < 0:
            raise ValueError(f"seed and sizes must not be negative: {self.seed}, {self.sizes}")
        if self.side < 64 or self.side % 2:
            raise ValueError(f"side must be even and at least 64 pixels, not {self.side}")
        counts = ("clip_frames", "davis_frames", "sav_frames")
        short = [name for name in counts if getattr(self, name) < 2]
        if short:
            raise ValueError(f"a video needs at least 2 frames: {', '.join(short)}")
        check_families(self.image_families)
        check_families(self.video_families)

    def size(self, layout: str, split: str) -> int:
        """Number of images or videos of a split."""
        return self.sizes.get(f"{layout}_{split}", 0)

    def generator(self, layout: str, split: str, index: int) -> np.random.Generator:
        """The random numbers of one item: its own, whatever else is drawn, where and when."""
        return np.random.default_rng([self.seed, zlib.crc32(f"{layout}/{split}".encode()), index])

    def settings(self) -> dict[str, Any]:
        """Everything that the bytes depend on, as plain JSON."""
        settings = {"version": VERSION, **asdict(self)}
        settings["sizes"] = {name: self.sizes.get(name, 0) for name in FULL}
        return settings
