"""J and F: this project's evaluator against a straightforward one, frame by frame.

    python tools/bench/vos_scores.py [--repeats 5] [--output scores.json]

The straightforward one is written after the published definition (DAVIS toolkit, SA-V's evaluator):
contours of whole images by shifted copies, OpenCV's dilation by a disk, one process. Both must give
the same numbers to 1e-9, otherwise the bench stops.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
from PIL import Image

import projects  # noqa: F401  (compatibility lines first)
from projects.common.masks import write_binary_png
from projects.sam2_video.evaluation.davis import frame_scores
from projects.sam2_video.evaluation.folders import score_folders
from tools.bench import common

SIZES = {"480p": (480, 854), "1080p": (1080, 1920)}
TOLERANCE = 1e-9
Scores = dict[tuple[str, str], tuple[float, float]]

# ---- the straightforward evaluator --------------------------------------------------------------


def plain_scores(
    prediction: np.ndarray, truth: np.ndarray, *, tolerance: float = 0.008
) -> tuple[float, float]:
    """J and F of two bool ``[H, W]`` masks."""
    union = (prediction | truth).sum()
    region = (prediction & truth).sum() / union if union else 1.0
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    disk = np.add.outer(*2 * [np.arange(-radius, radius + 1) ** 2]) <= radius**2
    ours, theirs = plain_contour(prediction), plain_contour(truth)
    if not ours.any() or not theirs.any():
        return float(region), float(ours.any() == theirs.any())
    near = cv2.dilate(theirs.astype(np.uint8), disk.astype(np.uint8)) > 0
    precision = (ours & near).sum() / ours.sum()
    near = cv2.dilate(ours.astype(np.uint8), disk.astype(np.uint8)) > 0
    recall = (theirs & near).sum() / theirs.sum()
    total = precision + recall
    return float(region), float(2 * precision * recall / total if total else 0.0)


def plain_contour(mask: np.ndarray) -> np.ndarray:
    """Pixels unlike the next one right, below or diagonally, as far as there is one."""
    contour = np.zeros_like(mask)
    contour[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    contour[:-1] |= mask[:-1] != mask[1:]
    contour[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return contour


def plain_folder_scores(
    truth: Path, predicted: Path, *, skip: bool = True, measure: Callable = plain_scores
) -> Scores:
    """Per (video, object), by the rules of SA-V's evaluator; palette PNGs or a folder per object.

    Both roots have the same layout.
    """
    found: Scores = {}
    for video in sorted(path for path in truth.iterdir() if path.is_dir()):
        inner = sorted(path for path in video.iterdir() if path.is_dir())
        for folder in inner or [video]:
            pairs = list(_pairs(folder, predicted / folder.relative_to(truth)))
            if inner:
                pairs = [(prediction > 0, annotation > 0) for prediction, annotation in pairs]
            scores = _accumulated(pairs[1:-1] if skip else pairs, measure)
            for key, value in scores.items():
                found[video.name, folder.name if inner else f"{key:03d}"] = value
    return found


def _pairs(truth: Path, predicted: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for file in sorted(truth.glob("*.png")):
        yield np.array(Image.open(predicted / file.name)), np.array(Image.open(file))


def _accumulated(
    pairs: list[tuple[np.ndarray, np.ndarray]], measure: Callable
) -> dict[int, tuple[float, float]]:
    """Mean scores of every annotated object from the frame on which anything shows it."""
    scores: dict[int, list[tuple[float, float]]] = {}
    annotated: set[int] = set()
    for prediction, annotation in pairs:
        present = {int(key) for key in np.unique(annotation) if key}
        annotated |= present
        for key in present | {int(key) for key in np.unique(prediction) if key} | set(scores):
            scores.setdefault(key, []).append(measure(prediction == key, annotation == key))
    means = {key: np.mean(scores[key], axis=0) for key in annotated}
    return {key: (float(region), float(boundary)) for key, (region, boundary) in means.items()}


# ---- masks --------------------------------------------------------------------------------------


def blob(
    height: int, width: int, *, area: float, centre: tuple[float, float], seed: int, error: float
) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and the annotation of a smooth shape; their contours differ by ``error`` pixels
    or so, ``area`` and ``centre`` are shares of the image."""
    rng = np.random.default_rng(seed)
    angles = np.arange(0, 2 * math.pi, 0.01)
    base = math.sqrt(area * height * width / math.pi)
    waves = [(k, rng.uniform(0.02, 0.2) / math.sqrt(k), rng.uniform(0, 6)) for k in range(2, 9)]
    radius = base * (1 + sum(size * np.sin(k * angles + phase) for k, size, phase in waves))
    noise = np.convolve(rng.standard_normal(len(angles)), np.ones(9) / 3, mode="same")
    outlines = (radius + error * noise, radius)
    masks = []
    for outline in outlines:
        x = centre[1] * width + outline * np.cos(angles)
        y = centre[0] * height + outline * np.sin(angles)
        mask = np.zeros((height, width), np.uint8)
        masks.append(cv2.fillPoly(mask, [np.stack([x, y], 1).astype(np.int32)], 1) > 0)
    return masks[0], masks[1]


def cases(height: int, width: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of prediction and annotation."""
    empty, full = np.zeros((height, width), bool), np.ones((height, width), bool)
    tiny, thin, near = empty.copy(), empty.copy(), empty.copy()
    tiny[height // 2, width // 2] = True
    thin[height // 3, 5:-5] = True
    near[height // 3 + 2, 5:-5] = True
    noise = np.random.default_rng(0).random((2, height, width)) > 0.5
    middle = dict(centre=(0.5, 0.5), seed=1, error=4.0)
    return {
        "object, 0.5 % of the image": blob(height, width, area=0.005, **middle),
        "object, 5 %": blob(height, width, area=0.05, **middle),
        "object, 30 %": blob(height, width, area=0.3, **middle),
        "at the border": blob(height, width, area=0.1, centre=(0.05, 0.95), seed=2, error=4.0),
        "thin line": (near, thin),
        "one pixel": (tiny, tiny),
        "lost": (empty, blob(height, width, area=0.05, **middle)[1]),
        "absent": (empty, empty),
        "full frame": (full, full),
        "noise": (noise[0], noise[1]),
    }


def write_folders(root: Path, *, videos: int, objects: int, frames: int, size: tuple[int, int]):
    """Annotations and predictions in SA-V's layout; objects drift, one frame in five is lost."""
    for video in range(videos):
        for number in range(objects):
            for frame in range(frames):
                where = (0.3 + 0.4 * number / objects, 0.2 + 0.6 * frame / frames)
                masks = blob(*size, area=0.03, centre=where, seed=7 * video + number, error=3.0)
                for name, mask in zip(("predicted", "annotated"), masks, strict=True):
                    folder = root / name / f"video{video}" / f"{number:03d}"
                    folder.mkdir(parents=True, exist_ok=True)
                    lost = name == "predicted" and frame % 5 == 4
                    write_binary_png(folder / f"{frame:05d}.png", mask & (not lost))


# ---- measurements -------------------------------------------------------------------------------


def measure_frames(repeats: int) -> list[dict[str, Any]]:
    rows = []
    for name, (height, width) in SIZES.items():
        for case, masks in cases(height, width).items():
            difference = np.abs(np.subtract(frame_scores(*masks), plain_scores(*masks))).max()
            if difference > TOLERANCE:
                raise AssertionError(f"{case} at {name}: the scores differ by {difference}")
            pairs = common.run_pairs(
                lambda masks=masks: [frame_scores(*masks) for _ in range(10)],
                lambda masks=masks: [plain_scores(*masks) for _ in range(10)],
                repeats=repeats,
                clock="cpu",
            )
            found = pairs.summary("ours", "plain")
            rows.append(
                {
                    "size": name,
                    "masks": case,
                    "ours ms": 100 * found["ours_s"],
                    "plain ms": 100 * found["plain_s"],
                    "plain / ours": 1 / found["ratio"],
                }
            )
    return rows


def measure_folders(repeats: int, workers: int, frames: int) -> list[dict[str, Any]]:
    rows = []
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_folders(root, videos=4, objects=2, frames=frames, size=size)
            truth, predicted = root / "annotated", root / "predicted"
            ours = score_folders(truth, predicted, workers=1).objects
            plain = plain_folder_scores(truth, predicted)
            worst = max(abs(np.subtract(ours[key][:2], plain[key])).max() for key in plain)
            if ours.keys() != plain.keys() or worst > TOLERANCE:
                raise AssertionError(f"folders at {name}: the scores differ by {worst}")
            rows += [
                {"size": name, "masks": len(plain) * frames}
                | _folder_pairs(truth, predicted, count, repeats)
                for count in (1, workers)
            ]
    return rows


def _folder_pairs(truth: Path, predicted: Path, workers: int, repeats: int) -> dict[str, Any]:
    clock = "cpu" if workers == 1 else "wall"  # the other clock is blind to child processes
    pairs = common.run_pairs(
        lambda: score_folders(truth, predicted, workers=workers),
        lambda: plain_folder_scores(truth, predicted),
        repeats=repeats,
        clock=clock,
    )
    found = pairs.summary("ours", "plain")
    return {
        "processes": workers,
        "clock": clock,
        "ours s": found["ours_s"],
        "plain s": found["plain_s"],
        "plain / ours": 1 / found["ratio"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_arguments(parser)
    parser.add_argument("--workers", type=int, default=2, help="processes of our evaluator")
    parser.add_argument("--frames", type=int, default=20, help="of every object in the folders")
    args = parser.parse_args()
    common.start(args)
    cv2.setNumThreads(1)
    settings = {"repeats": args.repeats, "workers": args.workers, "frames": args.frames}
    for name, rows in (
        ("vos_scores", measure_frames(args.repeats)),
        ("vos_scores_folders", measure_folders(args.repeats, args.workers, args.frames)),
    ):
        output = args.output and args.output.with_stem(args.output.stem + name[len("vos_scores") :])
        common.report(name, rows, output=output, settings=settings)


if __name__ == "__main__":
    main()
