"""Samples a second of the language model's datasets on one core, and where the time goes.

    python tools/bench/grounding_data.py [--size 1024] [--tile 448]

Writes small datasets in their own formats (videos of 1920x1080 in JPEG frames, images as large as
COCO's, features of a minute of video) and draws samples of them as training does. At last, two
worker processes feed steps of 2 videos of 5 frames: how long a step waits for its data.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import projects  # noqa: F401  (compatibility lines first)

# isort: split
import cv2

from projects.common.conversation import load_shared_tokenizer
from projects.common.engine.loader import build_train_loader
from projects.common.samplers import Draw
from projects.llava_sam2.datasets import boxes, chat, concept, inputs, rows, temporal
from projects.llava_sam2.datasets.chat import ChatDataset
from projects.llava_sam2.datasets.collate import collate
from projects.llava_sam2.datasets.concept import ConceptDataset
from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.gcg import grandf_rows
from projects.llava_sam2.datasets.grounded_captions import GroundedCaptionDataset
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.llava_json import llava_rows
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.osprey import osprey_rows
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from projects.llava_sam2.datasets.regions import RegionDataset
from projects.llava_sam2.datasets.templates import named_templates
from projects.llava_sam2.datasets.temporal import TemporalDataset, TemporalInputs
from projects.llava_sam2.datasets.temporal_rows import charades_rows
from projects.sam2_video.data.sav import SavSource, SavVideo
from tools.bench import common
from tools.bench.data_loader import Clock
from tools.bench.grounding_files import VIDEOS, write_all

WORKERS, STEPS = 2, 12
PARTS: dict[str, list[tuple[Any, str]]] = {  # part -> functions that are timed for it
    "decode pictures": [
        (rows, "read_image"),
        (chat, "read_image"),
        (SavVideo, "read_frames"),
    ],
    "read SA-V's json": [(SavSource, "__getitem__")],
    "masks": [
        (rows.AnnotatedFrames, "sample_masks"),
        (rows.AnnotatedFrames, "read_mask"),
        (SavVideo, "read_masks"),
        (concept, "frames_of"),
        (concept, "resize_masks"),
    ],
    "contours": [(ConceptInputs, "outline")],
    "cells of regions": [(inputs.GroundingInputs, "regions")],
    "resize for the language model": [(inputs.GroundingInputs, "pixel_values")],
    "resize for SAM 2": [(inputs.GroundingInputs, "grounding_frames")],
    "tokenise": [
        (inputs.GroundingInputs, "conversation"),
        (temporal.TemporalInputs, "conversation"),
    ],
    "boxes": [(boxes, "expression_boxes")],
    "read features": [(temporal.TemporalInputs, "features")],
}


def main() -> None:
    args = parse_args()
    common.start(args)
    cv2.setNumThreads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_all(root, args)
        made = datasets(root, args)
        table = [row for name, data in made.items() for row in measure(name, data, args.repeats)]
        table += fed(root, args)
    settings = {key: getattr(args, key) for key in ("size", "tile", "height", "width")}
    common.report("grounding_data", table, output=args.output, settings=settings)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="of SAM 2's input")
    parser.add_argument("--tile", type=int, default=448, help="of the language model's tiles")
    parser.add_argument("--height", type=int, default=1080, help="of the videos")
    parser.add_argument("--width", type=int, default=1920, help="of the videos")
    common.add_arguments(parser)
    return parser.parse_args()


# ---- datasets ------------------------------------------------------------------------------------


def datasets(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    tokenizer = load_shared_tokenizer(root / "tokenizer")
    common_inputs = GroundingInputs(
        tokenizer=tokenizer,
        template="qwen_chat",
        tiles=SingleTile(size=args.tile),
        tokens_per_tile=256,
        grounding_size=args.size,
    )
    images = refcoco_rows(root=root / "refcoco", image_root=root / "coco", split="train")
    return {
        "RefCOCO": GroundingDataset(
            rows=images,
            inputs=common_inputs,
            templates=named_templates(name="image"),
            mask_size=args.size // 4,
        ),
        "MeViS": video_dataset(root / "mevis", common_inputs, args.size // 4),
        "boxes of MeViS": boxes.BoxDataset(
            rows=mevis_rows(root=root / "mevis"),
            inputs=common_inputs,
            frames=UniformFrames(num=6),
        ),
        "Charades": TemporalDataset(
            rows=charades_rows(
                file=root / "charades" / "sta.txt",
                durations=None,
                feature_root=root / "charades",
            ),
            inputs=TemporalInputs(tokenizer=tokenizer, template="qwen_chat"),
        ),
        "SA-V concept": ConceptDataset(
            source=SavSource(annotation_root=root / "sav", frame_root=root / "sav"),
            inputs=ConceptInputs(inputs=common_inputs),
            mask_size=args.size // 4,
        ),
        "grounded captions": GroundedCaptionDataset(
            rows=grandf_rows(file=root / "captions.json", image_root=root / "coco"),
            inputs=common_inputs,
            mask_size=args.size // 4,
        ),
        "Osprey": RegionDataset(
            rows=osprey_rows(file=root / "regions.json", image_root=root / "coco"),
            inputs=common_inputs,
        ),
        "LLaVA chat": ChatDataset(
            rows=llava_rows(file=root / "chat.json", image_root=root / "coco"),
            inputs=common_inputs,
        ),
    }


def video_dataset(root: str | Path, inputs: GroundingInputs, mask_size: int) -> GroundingDataset:
    """Sa2VA's sample: 5 frames, 5 expressions."""
    return GroundingDataset(
        rows=mevis_rows(root=root),
        inputs=inputs,
        templates=named_templates(name="video"),
        mask_size=mask_size,
        expressions=5,
        with_repetition=True,
        frames=UniformFrames(num=5),
    )


# ---- time ----------------------------------------------------------------------------------------


def measure(name: str, dataset: Any, repeats: int) -> list[dict[str, Any]]:
    """A row for the whole sample, and one for each part that it has."""
    count = min(len(dataset), VIDEOS)

    def draw() -> None:
        for index in range(count):
            dataset[Draw(0, index, index)]

    draw()
    whole = min(common.seconds_of(draw, clock="cpu") for _ in range(repeats)) / count
    found = [
        {"data": name, "part": "sample", "ms": 1000 * whole, "samples_per_s": f"{1 / whole:.1f}"}
    ]
    for part, seconds in split_time(draw, repeats).items():
        if seconds:
            row = {"data": name, "part": part, "ms": 1000 * seconds / count, "samples_per_s": ""}
            found.append(row)
    return found


def split_time(draw: Callable[[], None], repeats: int) -> dict[str, float]:
    """Processor seconds by part; of each part the fastest round."""
    rounds = []
    for _ in range(repeats):
        clock = Clock()
        patches = [
            mock.patch.object(owner, function, clock.timed(part, getattr(owner, function)))
            for part, owners in PARTS.items()
            for owner, function in owners
        ]
        with ExitStack() as timed:
            for patch in patches:
                timed.enter_context(patch)
            clock.timed("all", draw)()
        parts = dict(clock.seconds)
        parts["the rest"] = parts.pop("all") - sum(parts.values())
        rounds.append(parts)
    return {part: min(times[part] for times in rounds) for part in rounds[0]}


def fed(root: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A step of 2 videos that two workers feed, and nobody computes on.

    Seconds between two steps, and processor seconds of the workers (which say what free cores would
    do where others work on the machine too).
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    loader = build_train_loader(
        datasets=[
            {
                "dataset": dict(
                    type=video_dataset,
                    root=root / "mevis",
                    inputs=dict(
                        type=GroundingInputs,
                        tokenizer=dict(type=load_shared_tokenizer, path=root / "tokenizer"),
                        template="qwen_chat",
                        tiles=dict(type=SingleTile, size=args.tile),
                        tokens_per_tile=256,
                        grounding_size=args.size,
                    ),
                    mask_size=args.size // 4,
                )
            }
        ],
        batch_size=2,
        collate=collate,
        max_steps=STEPS + 2 * WORKERS,
        max_epochs=None,
        seed=0,
        rank=0,
        world_size=1,
        num_workers=WORKERS,
    )
    arrived = []
    batches = iter(loader)
    for item in batches:
        assert len(item["batch"].names) == 2
        arrived.append(time.perf_counter())
    del batches  # the workers end
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = (arrived[-1] - arrived[2 * WORKERS - 1]) / STEPS  # the first ones start the workers
    used = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(arrived)
    step = f"step of 2, {WORKERS} workers"
    return [
        {"data": "MeViS", "part": f"{step}: wall", "ms": 1000 * wall}
        | {"samples_per_s": f"{2 / wall:.1f}"},
        {"data": "MeViS", "part": f"{step}: processor", "ms": 1000 * used, "samples_per_s": ""},
    ]


if __name__ == "__main__":
    main()
