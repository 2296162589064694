"""Masks to boxes: ``tools/make_boxes.py DATA_ROOT [mevis refytvos revos]``.

Writes ``special_jsons/spatial/<dataset>/*.json`` below DATA_ROOT (or ``--out``), of the datasets
named, or of all whose masks are there.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import projects  # noqa: F401  (compatibility lines first)
from projects.llava_sam2.extraction.boxes import recipes

logger = logging.getLogger("make_boxes")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_root", type=Path, help="the folder above video_datas")
    parser.add_argument(
        "datasets", nargs="*", help="mevis, refytvos, revos; default: what is there"
    )
    parser.add_argument("--out", type=Path, help="default: DATA_ROOT/special_jsons/spatial")
    parser.add_argument(
        "--masks",
        choices=("png", "mask_dict"),
        default="png",
        help="of Ref-YouTube-VOS: its PNGs, or mask_dict.pkl of Sa2VA's release (default png)",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="expressions without masks have no boxes"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = args.out or args.data_root / "special_jsons" / "spatial"
    known = recipes(
        args.data_root,
        out,
        masks=args.masks,
        on_bad_row="skip" if args.skip_bad else "error",
        workers=args.workers,
    )
    there = [name for name, recipe in known.items() if recipe.needs.is_file()]
    unknown = [name for name in args.datasets if name not in known]
    if unknown or not (args.datasets or there):
        wanted = ", ".join(f"{name} ({recipe.needs})" for name, recipe in known.items())
        sys.exit(
            f"make_boxes: no {', '.join(unknown) or 'masks there'}; boxes are made of {wanted}"
        )
    try:
        for name in args.datasets or there:
            made = known[name].make()
            files = ", ".join(map(str, made.files))
            logger.info("%s: %d boxes of %d objects in %s", name, made.boxes, made.tracks, files)
    except (ValueError, OSError) as error:
        sys.exit(f"make_boxes: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
