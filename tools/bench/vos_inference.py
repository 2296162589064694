"""VOS inference against PyPI's ``SAM2VideoPredictor``: time, operations, memory, same masks.

    python tools/bench/vos_inference.py --output work_dirs/bench/vos_inference.json
    python tools/bench/vos_inference.py --device cuda --size large --image-size 1024

Both track the same mask prompts through the same JPEG folder with the same random weights, reading
and resizing included. Then a video of 50 and one of 500 frames are tracked, each in a process of
its own, for the memory above that of a short video.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars of the reference
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import projects  # noqa: F401  (compatibility lines first)
from projects.common.video import FrameFolder
from projects.sam2_video.predictor import ObjectPrompt, VideoPredictor
from tests.sam2_video.meta_predictor import add_to_meta, predictor_pair, write_clip
from tools.bench import common

HEIGHT, WIDTH = 270, 480
MIB = 2**20


class CountOperations(TorchDispatchMode):
    """Counts what torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


class Both:
    """Our predictor and Meta's, with the same weights."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        meta, ours = predictor_pair(args.size, image_size=args.image_size)
        self.meta, sam2 = meta.to(self.device), ours.to(self.device)
        bf16 = args.precision == "bf16"
        self.ours = VideoPredictor(sam2, resize="meta", precision=args.precision)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def run_ours(self, folder: Path, prompts: list[ObjectPrompt]):
        for _, masks in self.ours.propagate(FrameFolder(folder), prompts):
            yield masks

    def run_meta(self, folder: Path, prompts: list[ObjectPrompt]):
        state = self.meta.init_state(str(folder))
        for prompt in prompts:
            add_to_meta(self.meta, state, prompt)
        for _, _, logits in self.meta.propagate_in_video(state):
            yield (logits[:, 0] > 0).cpu().numpy()

    def all_of(self, run: Callable, *given) -> list[np.ndarray]:
        with self.autocast:
            return list(run(*given))

    def through(self, run: Callable, *given) -> None:
        """Run without keeping the masks."""
        with self.autocast:
            for _ in run(*given):
                pass

    def operations(self, run: Callable, *given, frame: int) -> int:
        """Operations of one tracked frame, its encoding included, both in inference mode."""
        with self.autocast, torch.inference_mode():
            frames = run(*given)
            for _ in range(frame):
                next(frames)
            with CountOperations() as counted:
                next(frames)
        return counted.count


def prompts_of(objects: int) -> list[ObjectPrompt]:
    prompts = []
    for number in range(objects):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        top, left = 10 + 12 * number, 15 + 20 * number
        mask[top : top + HEIGHT // 4, left : left + WIDTH // 5] = True
        prompts.append(ObjectPrompt(number, 0, mask=mask))
    return prompts


def overlap(left: list[np.ndarray], right: list[np.ndarray]) -> float:
    """The lowest IoU of an object on a frame."""
    return min(
        float(((a & b).sum((1, 2)) / np.maximum((a | b).sum((1, 2)), 1)).min())
        for a, b in zip(left, right, strict=True)
    )


def time_row(both: Both, folder: Path, objects: int, args: argparse.Namespace) -> dict:
    prompts = prompts_of(objects)
    given = (folder, prompts)
    same = overlap(both.all_of(both.run_ours, *given), both.all_of(both.run_meta, *given))
    pairs = common.run_pairs(
        lambda: both.through(both.run_ours, *given),
        lambda: both.through(both.run_meta, *given),
        repeats=args.repeats,
        warmup=0,  # the masks were just made
        clock="wall" if both.device.type == "cuda" else "cpu",
    )
    frame = args.frames - 2
    ours = both.operations(both.run_ours, *given, frame=frame)
    meta = both.operations(both.run_meta, *given, frame=frame)
    row = {
        "objects": objects,
        **pairs.summary("ours", "meta"),
        "ours_fps": args.frames / min(pairs.first),
        "ours_ops": ours,
        "meta_ops": meta,
        "ops_ratio": meta / ours,
        "min_iou": same,
    }
    common.log_row(row)
    return row


def memory_rows(place: Path, args: argparse.Namespace) -> list[dict]:
    rows = []
    for length in args.memory_frames:
        write_clip(place / str(length), frames=length, height=HEIGHT, width=WIDTH)
        row: dict[str, float] = {"frames": length}
        for name in ("ours", "meta"):
            command = [sys.executable, __file__, *sys.argv[1:]]
            command += ["--measure", name, str(place / str(length)), str(place / "clip")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row[f"{name}_MiB"] = float(done.stdout.split()[-1])
        common.log_row(row)
        rows.append(row)
    return rows


def measure(args: argparse.Namespace) -> None:
    """Write the MiB that a video takes above a short one that was tracked before."""
    name, folder, warm_up = args.measure
    both = Both(args)
    run = both.run_ours if name == "ours" else both.run_meta
    both.through(run, Path(warm_up), prompts_of(1))
    with common.peak_memory(both.device) as measured:
        both.through(run, Path(folder), prompts_of(1))
    sys.stdout.write(f"{measured.value / MIB}\n")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    common.add_arguments(parser)
    parser.add_argument("--size", default="tiny", help="of the image encoder")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--memory-frames", type=int, nargs="*", default=[50, 500])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # one run, for its memory
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on a GPU")
    args = parser.parse_args()
    args.precision = args.precision or ("bf16" if args.device == "cuda" else "fp32")
    return args


def main() -> None:
    args = parse_args()
    common.start(args)
    if args.measure:
        return measure(args)
    both = Both(args)
    settings = {key: str(value) for key, value in vars(args).items()}
    with tempfile.TemporaryDirectory() as place:
        folder = write_clip(Path(place) / "clip", frames=args.frames, height=HEIGHT, width=WIDTH)
        rows = [time_row(both, folder, objects, args) for objects in args.objects]
        common.report(
            "vos_inference", rows, output=args.output, device=args.device, settings=settings
        )
        if args.memory_frames:
            output = args.output and args.output.with_stem(f"{args.output.stem}_memory")
            memory = memory_rows(Path(place), args)
            common.report(
                "vos_memory", memory, output=output, device=args.device, settings=settings
            )


if __name__ == "__main__":
    main()
