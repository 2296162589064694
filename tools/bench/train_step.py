"""A training step, forward and backward, against PyPI's ``sam2`` driven as Meta trains.

Same weights, clip, prompts and loss; dropout is on in both. Beside the time, in pairs, the bytes
that autograd holds for backward. ``--device cuda`` runs in bfloat16 and takes peak memory too.

    python tools/bench/train_step.py --frames 4 8 --objects 1 3 8 --output step.json
    python tools/bench/train_step.py --device cuda --size large --image-size 1024
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import projects  # noqa: E402, F401  (compatibility lines come first)

# isort: split
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from projects.sam2_video.data.clip import ClipBatch  # noqa: E402
from projects.sam2_video.losses import MultiStepMaskLoss  # noqa: E402
from projects.sam2_video.modeling import Sam2, build_sam2, sam2_config  # noqa: E402
from projects.sam2_video.modeling.meta_weights import load_meta_state  # noqa: E402
from projects.sam2_video.prompting import PromptPlan, PromptSimulator  # noqa: E402
from projects.sam2_video.train_model import TrainingUnroll  # noqa: E402
from tests.sam2_video.meta_reference import build_meta, randomise  # noqa: E402
from tests.sam2_video.meta_training import meta_loss, meta_steps  # noqa: E402
from tools.bench import common  # noqa: E402

RECOMPUTED = ["nothing", "all"]
PROMPTS = {
    "mask": PromptPlan(conditioning=(0,), mask_prompts=True),
    "clicks": PromptPlan(conditioning=(0, 2), correction=frozenset({0, 2})),
}


class FixedPlan(PromptSimulator):
    """Seven clicks on the frames that a given plan corrects."""

    def __init__(self, plan: PromptPlan) -> None:
        super().__init__()
        self.fixed = plan

    def plan(self, visible, rng):
        return [self.fixed]


def make_batch(frames: int, objects: int, side: int, device: str) -> ClipBatch:
    """One clip of noise with squares that move."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, frames, 3, side, side), generator=generator)
    masks = torch.zeros(frames, objects, side, side, dtype=torch.bool)
    for frame in range(frames):
        for row in range(objects):
            top, left = side * (1 + row % 4) // 8, side * (1 + row // 4 + frame // 4) // 8
            masks[frame, row, top : top + side // 4, left + frame : left + side // 3] = True
    batch = ClipBatch(
        frames=images.to(torch.uint8),
        masks=masks,
        object_to_video=torch.zeros(objects, dtype=torch.long),
        names=["bench"],
        seeds=[0],
    )
    return batch.to(device)


def step_of(losses: Callable[[], dict[str, Tensor]], model: torch.nn.Module, device: str):
    """Forward and backward as the engine runs them."""
    bf16 = torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()

    def forward() -> Tensor:
        torch.manual_seed(0)
        with bf16:
            return sum(losses().values())

    def run() -> None:
        model.zero_grad(set_to_none=True)
        forward().backward()

    return forward, run


def held_bytes(forward: Callable[[], Tensor], model: torch.nn.Module) -> int:
    """What autograd holds between forward and backward, beside the weights."""
    ignore = [*model.parameters(), *model.buffers()]
    with common.saved_tensors(ignore=ignore) as held:
        loss = forward()
    del loss
    return held.value


def compare(arguments: argparse.Namespace, frames: int, objects: int, prompt: str) -> list[dict]:
    device, plan = arguments.device, PROMPTS[prompt]
    meta = randomise(build_meta(arguments.size, image_size=arguments.image_size))
    meta = meta.train().to(device)
    batch = make_batch(frames, objects, arguments.image_size, device)
    simulator = FixedPlan(plan)
    reference = step_of(
        lambda: meta_loss(meta_steps(meta, batch, plan, simulator), batch.masks), meta, device
    )
    reference_held = held_bytes(reference[0], meta)
    rows = []
    for recompute in (name == "all" for name in arguments.recomputed):
        ours = _ours(arguments, meta, recompute)
        unroll = TrainingUnroll(simulator=simulator, loss=MultiStepMaskLoss())
        forward, run = step_of(lambda u=unroll, m=ours: u(m, batch), ours, device)
        held = held_bytes(forward, ours)
        with torch.no_grad():
            agreement = abs(forward().item() / reference[0]().item() - 1)
        pairs = common.run_pairs(
            run, reference[1], repeats=arguments.repeats, clock=arguments.clock
        )
        row = dict(prompt=prompt, frames=frames, objects=objects, recomputed=recompute)
        row |= pairs.summary("ours", "meta")
        row |= dict(ours_mib=held / 2**20, meta_mib=reference_held / 2**20)
        row |= dict(memory_ratio=held / reference_held, loss_differs=agreement)
        if device == "cuda":
            row |= {f"{n}_peak_mib": _peak(r) for n, r in (("ours", run), ("meta", reference[1]))}
        common.log_row(row)
        rows.append(row)
    return rows


def _ours(arguments: argparse.Namespace, meta: torch.nn.Module, recompute: bool) -> Sam2:
    config = sam2_config(arguments.size, image_size=arguments.image_size)
    model = build_sam2(config, checkpointing=recompute)
    load_meta_state(model, meta.state_dict(), where="reference")
    return model.train().to(arguments.device)


def _peak(run: Callable[[], None]) -> float:
    with common.peak_memory("cuda") as peak:
        run()
    return peak.value / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny", help="tiny, small, base_plus or large")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 3, 8])
    parser.add_argument("--prompts", nargs="+", choices=PROMPTS, default=list(PROMPTS))
    parser.add_argument("--recomputed", nargs="+", choices=RECOMPUTED, default=RECOMPUTED)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--clock", choices=common.CLOCKS, default="cpu")
    common.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        arguments.clock = "wall"
    common.start(arguments)
    rows = [
        row
        for prompt in arguments.prompts
        for frames in arguments.frames
        for objects in arguments.objects
        for row in compare(arguments, frames, objects, prompt)
    ]
    settings = {"size": arguments.size, "image_size": arguments.image_size}
    settings |= {"clock": arguments.clock, "repeats": arguments.repeats}
    common.report(
        "training step", rows, output=arguments.output, device=arguments.device, settings=settings
    )


if __name__ == "__main__":
    main()
