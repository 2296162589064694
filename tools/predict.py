"""Segment what an expression names: ``tools/predict.py CONFIG CHECKPOINT PATH "EXPRESSION"``.

PATH is an image, an mp4 or a folder of frames. Writes an overlay and prints the model's answer.
With ``--region`` (any number and mix of masks, boxes and clicks) EXPRESSION is a question of your
own about regions of an image, "What is <region>?", in which ``<region>`` stands for each in turn.
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from mmengine.config import DictAction

import projects  # noqa: F401  (compatibility lines first)
from projects.common.engine import checkpoints
from projects.common.engine.check import check_model
from projects.common.engine.config import load_config, plain
from projects.common.engine.model import build_model
from projects.llava_sam2.evaluation.ask import ask_file, asker, check_paths, read_regions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask a trained model about an image or a video.")
    parser.add_argument("config", help="the config that the checkpoint was trained with")
    parser.add_argument("checkpoint", help="weights file, iter_N.pth folder, or a work dir")
    parser.add_argument("path", type=Path, help="image, mp4, or folder of frames")
    parser.add_argument("expression", help='what to segment, e.g. "the red circle"')
    for kind, option, shown in (
        ("mask", "--region", "MASK.png"),
        ("box", "--region-box", "X1,Y1,X2,Y2"),
        ("click", "--region-click", "X,Y"),
    ):
        parser.add_argument(
            option,
            dest="regions",
            action="append",
            default=[],
            type=partial(_named, kind),
            metavar=shown,
            help=f"{kind} of a region of the image that EXPRESSION, then a question, is about",
        )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("prediction.png"),
        help="overlay to write: an image (of a video: a strip of frames) or an mp4",
    )
    parser.add_argument("--fps", type=float, default=6.0, help="of an mp4 from a folder of frames")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value ..."
    )
    return parser.parse_args()


def _named(kind: str, text: str) -> tuple[str, str]:
    return kind, text


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        check_paths(args.path, args.out)
        regions = read_regions(args.regions, args.path, args.expression)
        tree = plain(load_config(args.config, args.cfg_options))
        check_model(tree)
        checkpoints.weights_file(args.checkpoint)
        ask = asker(tree)
        # seeded as in training: what is frozen and drawn at random is not in the checkpoint
        model = build_model(tree, int(tree.get("seed", 0)))
        checkpoints.load_model(model, args.checkpoint)
        model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        with model.autocast():
            answer = ask_file(
                model, ask, args.path, args.expression, args.out, fps=args.fps, regions=regions
            )
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    if not (answer.masks or regions):
        sys.stdout.write("The model pointed at nothing: there is no [SEG] in its answer.\n")
    sys.stdout.write(f"{answer.text}\n{args.out}\n")


if __name__ == "__main__":
    main()
