"""``python -m projects.toy_world OUT``: write the toy world."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from projects.toy_world.expressions import IMAGE_FAMILIES, VIDEO_FAMILIES
from projects.toy_world.generate import generate
from projects.toy_world.world import FULL, SIZES, World

_GROUPS = {
    "images": ("refcoco_train",),
    "videos": ("mevis_train",),
    "clips": ("sav_train", "davis_train"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    sizes = dict(SIZES[options.size])
    for group, splits in _GROUPS.items():
        if getattr(options, group) is not None:
            sizes |= dict.fromkeys(splits, getattr(options, group))
    sizes |= {name: getattr(options, name) for name in FULL if getattr(options, name) is not None}
    try:
        world = World(
            seed=options.seed,
            sizes=sizes,
            side=options.side,
            clip_frames=options.clip_frames,
            image_families=IMAGE_FAMILIES | dict(options.image_family),
            video_families=VIDEO_FAMILIES | dict(options.video_family),
        )
        if generate(world, options.out, workers=options.workers):
            logging.info("Toy world written to %s", options.out)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m projects.toy_world",
        description="Draw moving shapes and write them in the formats of the real datasets.",
    )
    parser.add_argument("out", help="folder to write; skipped if it holds this world already")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--side", type=int, default=128, help="pixels (default: %(default)s)")
    parser.add_argument("--clip-frames", type=int, default=6, help="of a MeViS video")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    for group, splits in _GROUPS.items():
        parser.add_argument(
            f"--{group}", type=int, metavar="N", help=f"size of {', '.join(splits)}"
        )
    for name in FULL:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=int, metavar="N")
    for kind, families in (("image", IMAGE_FAMILIES), ("video", VIDEO_FAMILIES)):
        shown = " ".join(f"{name}={weight}" for name, weight in families.items())
        parser.add_argument(
            f"--{kind}-family",
            type=_weight,
            action="append",
            default=[],
            metavar="NAME=WEIGHT",
            help=f"how often expressions are about it (default: {shown}); may be repeated",
        )
    return parser


def _weight(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    try:
        return name, float(weight)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as colour=0.2") from error


if __name__ == "__main__":
    sys.exit(main())
