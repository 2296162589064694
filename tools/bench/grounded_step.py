"""A training step of the whole grounded model with random weights: time, memory, MFU.

tools/bench/grounded_step.py --size 4b                        on a GPU
tools/bench/grounded_step.py --size toy --peak-tflops 0.05    tries the bench on a CPU

The step is the recipe's: its micro-batches, clipping and optimizer; the batch is the largest video
batch that its config can draw. FLOPs are those of forward and backward, counted on shapes, without
what checkpointing and attention compute a second time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.config import DictAction
from torch.nn.utils import clip_grad_norm_

import projects  # noqa: F401  (compatibility lines first)
from projects.common import registry
from projects.common.engine.config import load_config
from projects.common.engine.memory import Run
from projects.common.engine.model import TrainableModel, build_model
from projects.llava_sam2.estimate import Estimate, make_batch, with_pixels
from tools.bench import common

CONFIGS = Path(__file__).resolve().parents[2] / "projects/llava_sam2/configs"
SIZES = {"toy": "toy", **{size: f"sa2va_{size}" for size in ("1b", "4b", "8b", "26b")}}
# bf16 without sparsity, by what is in a card's name; the first that matches
PEAK_TFLOPS = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "A100": 312}


def peak_tflops(card: str, asked: float | None) -> float:
    """What a card can do at best.

    Raises:
        ValueError: nothing asked for, and a card of another name.
    """
    known = [peak for name, peak in PEAK_TFLOPS.items() if name in card]
    if asked is None and not known:
        raise ValueError(f"--peak-tflops: give what {card} can do in bf16, for the utilisation")
    return known[0] if asked is None else asked


def video_batch(estimate: Estimate) -> str:
    """Name of the shape with the most frames."""
    return max(estimate.shapes, key=lambda name: estimate.shapes[name].frames)


class Step:
    """An update as the config makes it."""

    def __init__(self, model: TrainableModel, batch: Any, settings: dict[str, Any]) -> None:
        chosen = dict(settings["optimizer"])
        self.model, self.batch = model, batch
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = registry.resolve(chosen.pop("type"))(self.trained, **chosen)
        self.micro_batches = settings.get("accumulative_counts", 1)
        self.max_norm = (settings.get("clip_grad") or {}).get("max_norm", float("inf"))

    def __call__(self) -> None:
        for _ in range(self.micro_batches):
            losses = self.model(self.batch, mode="loss")
            total = self.model.parse_losses(losses)[0]
            (total / self.micro_batches).backward()
        clip_grad_norm_(self.trained, self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure(estimate: Estimate, arguments: argparse.Namespace, peak: float) -> dict[str, Any]:
    """A row: the step that was measured, beside what was estimated."""
    name = video_batch(estimate)
    held, shape = estimate.steps[name], estimate.shapes[name]
    with common.peak_memory(arguments.device) as memory:
        model = build_model(estimate.tree, 0).to(arguments.device).train()
        batch = with_pixels(make_batch(model, shape)).to(arguments.device)
        step = Step(model, batch, estimate.tree["optim_wrapper"])
        run = partial(common.seconds_of, step, clock=arguments.clock)
        seconds = [run() for _ in range(arguments.warmup + arguments.repeats)][arguments.warmup :]
    time = statistics.median(seconds)
    flops = held.flops * step.micro_batches
    stays = sum(estimate.needs(Run()).stays.values())
    return {
        "batch": f"{step.micro_batches} x ({name})",
        "step_s": time,
        "tokens_per_s": step.micro_batches * int(batch.attention_mask.sum()) / time,
        "peak_GiB": memory.value / 2**30,
        "estimated_GiB": (stays + held.peak) / 2**30,
        "model_TFLOP": flops / 1e12,
        "recomputed_TFLOP": held.recomputed * step.micro_batches / 1e12,
        "TFLOP_per_s": flops / time / 1e12,
        "MFU": flops / time / 1e12 / peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="4b")
    parser.add_argument("--peak-tflops", type=float, help="default: by the card's name")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those that count")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value ..."
    )
    common.add_arguments(parser)
    arguments = parser.parse_args()
    arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments.clock = "wall" if arguments.device == "cuda" else "cpu"
    common.start(arguments)
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "this CPU"
    try:
        peak = peak_tflops(card, arguments.peak_tflops)
        cfg = load_config(CONFIGS / f"{SIZES[arguments.size]}.py", arguments.cfg_options)
        estimate = Estimate(cfg, device=arguments.device, task="segment")
    except ValueError as error:
        sys.exit(str(error))
    settings = {key: getattr(arguments, key) for key in ("size", "repeats", "clock", "cfg_options")}
    common.report(
        "grounded step",
        [measure(estimate, arguments, peak)],
        output=arguments.output,
        device=arguments.device,
        settings={**settings, "peak_tflops": peak},
    )


if __name__ == "__main__":
    main()
