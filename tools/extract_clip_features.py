"""Frames to CLIP features: ``tools/extract_clip_features.py FRAMES OUT --fps 10``.

FRAMES holds a folder of frames a video (``tools/extract_frames.py --fps``). ``OUT/<video>.pt`` is
one tensor [frames, 1024] of unit vectors. A run that was interrupted goes on where it stopped;
videos that fail are listed and make the exit code 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import projects  # noqa: F401  (compatibility lines first)
from projects.llava_sam2.extraction.clip import (
    OPEN_CLIP_TAG,
    OPEN_CLIP_VIT_H,
    VIT_H,
    ClipEncoder,
    open_clip_model,
    transformers_clip,
)
from projects.llava_sam2.extraction.features import extract_features
from projects.llava_sam2.extraction.frames import find_folders

logger = logging.getLogger("extract_clip_features")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=Path, help="folder with a folder of frames per video")
    parser.add_argument("out", type=Path, help="e.g. clip_features/charades")
    parser.add_argument("--fps", type=float, default=10.0, help="frames a second (default 10)")
    parser.add_argument("--library", choices=("transformers", "open_clip"), default="transformers")
    parser.add_argument(
        "--model", help=f"folder or hub id ({VIT_H}); of open_clip a name ({OPEN_CLIP_VIT_H})"
    )
    parser.add_argument(
        "--pretrained", default=OPEN_CLIP_TAG, help="open_clip's tag or file (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="frames at once (default 64)")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="default: bf16 on a GPU, fp32 elsewhere"
    )
    return parser.parse_args()


def encoder_of(args: argparse.Namespace) -> ClipEncoder:
    precision = args.precision or ("bf16" if args.device.startswith("cuda") else "fp32")
    options = dict(dtype=PRECISIONS[precision], device=args.device)
    if args.library == "open_clip":
        return open_clip_model(args.model or OPEN_CLIP_VIT_H, args.pretrained, **options)
    return transformers_clip(args.model or VIT_H, **options)


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        folders = find_folders(args.frames)
        done = extract_features(
            folders,
            args.out,
            encoder=encoder_of(args),
            fps=args.fps,
            batch_size=args.batch_size,
            workers=args.workers,
        )
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"extract_clip_features: {error}")
    logger.info(
        "%s: %d frames of %d videos; %d videos were there; %d failed",
        *(args.out, done.frames, done.videos, done.kept, len(done.failures)),
    )
    for failure in done.failures:
        logger.error("failed: %s", failure)
    return 1 if done.failures else 0


if __name__ == "__main__":
    sys.exit(main())
