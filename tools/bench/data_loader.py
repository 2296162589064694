"""Clips a second of the data loader on one core, and where the time goes.

    python tools/bench/data_loader.py [--size 1024] [--height 1080 --width 1920]

Draws a few videos as SA-V (json and JPEG frames) and as palette PNGs, and makes clips of the SAM
2.1 fine-tuning recipe from them. Beside our time and its parts: that of a plain loader, which
decodes all masks of a frame and applies torchvision's transforms to the whole clip.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import projects  # noqa: F401  (compatibility lines first)

# isort: split
import cv2
import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torchvision.transforms import InterpolationMode

from projects.common.masks import encode_rle, write_palette_png
from projects.common.video import write_jpeg
from projects.sam2_video.data.clip import Clip
from projects.sam2_video.data.dataset import ClipDataset, PlainDraw
from projects.sam2_video.data.png import PaletteSource
from projects.sam2_video.data.samplers import UniformSampler
from projects.sam2_video.data.sav import SavSource
from projects.sam2_video.data.transforms import (
    FILL,
    ColorJitter,
    HorizontalFlip,
    RandomAffine,
    RandomGrayscale,
    ResizeSquare,
)
from tools.bench import common

FRAMES, OBJECTS = 12, 8  # of a video


def main() -> None:
    args = parse_args()
    common.start(args)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_videos(root, args.videos, args.height, args.width)
        rows = [
            row for name, source in sources(root).items() for row in measure(name, source, args)
        ]
    settings = {"size": args.size, "height": args.height, "width": args.width, "frames": 8}
    common.report("data_loader", rows, output=args.output, settings=settings)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="of the model's input")
    parser.add_argument("--height", type=int, default=1080, help="of the videos")
    parser.add_argument("--width", type=int, default=1920, help="of the videos")
    parser.add_argument("--videos", type=int, default=2)
    common.add_arguments(parser)
    return parser.parse_args()


def sources(root: Path) -> dict[str, Any]:
    return {
        "SA-V json": SavSource(annotation_root=root / "sav", frame_root=root / "frames"),
        "palette PNG": PaletteSource(image_root=root / "frames", annotation_root=root / "masks"),
    }


def measure(name: str, source: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a part, and one for the whole."""
    ours = make_dataset(source, recipe(args.size), args.videos)
    plain = make_dataset(PlainSource(source), plain_recipe(args.size), args.videos)
    pairs = common.run_pairs(ours, plain, repeats=args.repeats, clock="cpu")
    clips = args.videos
    parts = split_time(source, recipe(args.size), clips, args.repeats)
    whole = min(pairs.first) / clips
    rows = [
        {"data": name, "part": "clip", "ms": 1000 * whole, "clips_per_s": 1 / whole}
        | {"plain_ms": 1000 * min(pairs.second) / clips, "ratio": pairs.ratio}
    ]
    return rows + [
        {"data": name, "part": part, "ms": 1000 * seconds, "clips_per_s": "", "plain_ms": ""}
        | {"ratio": ""}
        for part, seconds in parts.items()
    ]


def make_dataset(source: Any, transforms: list, clips: int):
    """A callable that draws ``clips`` clips, the same ones each time."""
    sampler = UniformSampler(num_frames=8, max_objects=3)
    dataset = ClipDataset(source=source, sampler=sampler, transforms=transforms)
    return lambda: [dataset[PlainDraw(index, index)] for index in range(clips)]


def recipe(size: int) -> list:
    return [
        HorizontalFlip(),
        RandomAffine(degrees=25, shear=20),
        ResizeSquare(size=size),
        ColorJitter(brightness=0.1, contrast=0.03, saturation=0.03),
        RandomGrayscale(probability=0.05),
        ColorJitter(brightness=0.1, contrast=0.05, saturation=0.05, per_frame=True),
    ]


# ---- where the time goes -------------------------------------------------------------------------


class Clock:
    """Processor seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, part: str, function):
        def run(*args, **kwargs):
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.process_time() - start

        return run


class TimedVideo:
    def __init__(self, video: Any, clock: Clock) -> None:
        self.name = video.name
        self.num_frames = video.num_frames
        self.read_frames = clock.timed("decode frames", video.read_frames)
        self.visible_objects = clock.timed("decode masks", video.visible_objects)
        self.read_masks = clock.timed("decode masks", video.read_masks)


class TimedSource:
    def __init__(self, source: Any, clock: Clock) -> None:
        self.source, self.clock = source, clock

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> TimedVideo:
        opened = self.clock.timed("open (json, listing)", self.source.__getitem__)(index)
        return TimedVideo(opened, self.clock)


def split_time(source: Any, transforms: list, clips: int, repeats: int) -> dict[str, float]:
    """Seconds a clip by part; of each part the fastest round."""
    rounds = []
    for _ in range(repeats):
        clock = Clock()
        timed = [clock.timed(type(transform).__name__, transform) for transform in transforms]
        draw = make_dataset(TimedSource(source, clock), timed, clips)
        clock.timed("clip", draw)()
        parts = dict(clock.seconds)
        whole = parts.pop("clip")
        parts["stacking and the rest"] = whole - sum(parts.values())
        rounds.append({part: seconds / clips for part, seconds in parts.items()})
    return {part: min(times[part] for times in rounds) for part in rounds[0]}


# ---- a plain loader ------------------------------------------------------------------------------


class PlainVideo:
    """Decodes all objects of a frame, drawn or not."""

    def __init__(self, video: Any) -> None:
        self.name, self.num_frames, self.read_frames = (
            video.name,
            video.num_frames,
            video.read_frames,
        )
        self.video = video

    def visible_objects(self, index: int) -> list[int]:
        return sorted(key for key, mask in self.video.read_masks(index).items() if mask.any())

    def read_masks(self, index: int, objects: Any = None) -> dict[int, np.ndarray]:
        return self.video.read_masks(index)


class PlainSource:
    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> PlainVideo:
        return PlainVideo(self.source[index])


class PlainAffine(RandomAffine):
    """The same draws, torchvision's arithmetic on the whole clip."""

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        rng.uniform(-self.translate, self.translate, 2)
        angle = float(rng.uniform(-self.degrees, self.degrees))
        rng.uniform(*self.scale)
        shear = [float(rng.uniform(-self.shear, self.shear)), 0.0]
        params = dict(angle=angle, translate=[0, 0], scale=1.0, shear=shear)
        clip.masks = F.affine(clip.masks.to(torch.uint8), **params, fill=[0.0]).bool()
        clip.frames = F.affine(
            clip.frames, **params, interpolation=InterpolationMode.BILINEAR, fill=FILL
        )
        return clip


class PlainJitter(ColorJitter):
    """Step after step, rounded each time."""

    STEPS = dict(
        adjust_brightness=F.adjust_brightness,
        adjust_contrast=F.adjust_contrast,
        adjust_saturation=F.adjust_saturation,
    )

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        parts = clip.frames.split(1) if self.per_frame else [clip.frames]
        done = []
        for part in parts:
            for step, amount in self._draw(rng):
                part = self.STEPS[step.__name__](part, amount)
            done.append(part)
        clip.frames = torch.cat(done)
        return clip


def plain_recipe(size: int) -> list:
    steps = recipe(size)
    steps[1] = PlainAffine(degrees=25, shear=20)
    steps[3] = PlainJitter(brightness=0.1, contrast=0.03, saturation=0.03)
    steps[5] = PlainJitter(brightness=0.1, contrast=0.05, saturation=0.05, per_frame=True)
    return steps


# ---- the files -----------------------------------------------------------------------------------


def write_videos(root: Path, videos: int, height: int, width: int) -> None:
    """Noisy pictures, which compress about as photographs do, and ragged discs that move."""
    rng = np.random.default_rng(0)
    (root / "sav").mkdir(parents=True)
    for number in range(videos):
        name = f"sav_{number:06d}"
        masklets = []
        for folder in ("frames", "masks"):
            (root / folder / name).mkdir(parents=True)
        for step in range(FRAMES):
            stem = f"{4 * step:05d}"
            write_jpeg(root / "frames" / name / f"{stem}.jpg", picture(rng, height, width), 90)
            masks = [disc(rng, key, step, height, width) for key in range(OBJECTS)]
            masklets.append([encode_rle(mask) for mask in masks])
            ids = np.zeros((height, width), np.uint8)
            for key, mask in enumerate(masks, start=1):
                ids[mask] = key
            write_palette_png(root / "masks" / name / f"{stem}.png", ids)
        (root / "sav" / f"{name}_manual.json").write_text(json.dumps({"masklet": masklets}))


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def disc(rng: np.random.Generator, key: int, step: int, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    centre_y = height * (0.25 + 0.5 * (key % 2))
    centre_x = width * (key // 2 + 0.6) / (OBJECTS // 2) + 4 * step
    angle = np.arctan2(y - centre_y, x - centre_x)
    radius = height / 8 * (1 + 0.1 * np.sin(9 * angle + step) + 0.02 * rng.standard_normal())
    return (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2


if __name__ == "__main__":
    main()
