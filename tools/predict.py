"""Segment what an expression names: ``tools/predict.py CONFIG CHECKPOINT PATH "EXPRESSION"``.

PATH is an image, an mp4 or a folder of frames. Writes an overlay and prints the model's answer.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from mmengine.config import DictAction

import projects  # noqa: F401  (compatibility lines first)
from projects.common.engine import checkpoints
from projects.common.engine.config import check_model, load_config, plain
from projects.common.engine.model import build_model
from projects.llava_sam2.evaluation.ask import ask_file, asker, check_paths


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask a trained model about an image or a video.")
    parser.add_argument("config", help="the config that the checkpoint was trained with")
    parser.add_argument("checkpoint", help="weights file, iter_N.pth folder, or a work dir")
    parser.add_argument("path", type=Path, help="image, mp4, or folder of frames")
    parser.add_argument("expression", help='what to segment, e.g. "the red circle"')
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


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        check_paths(args.path, args.out)
        tree = plain(load_config(args.config, args.cfg_options))
        check_model(tree)
        checkpoints.weights_file(args.checkpoint)
        ask = asker(tree)
        # seeded as in training: what is frozen and drawn at random is not in the checkpoint
        model = build_model(tree, int(tree.get("seed", 0)))
        checkpoints.load_model(model, args.checkpoint)
        model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        with model.autocast():
            answer = ask_file(model, ask, args.path, args.expression, args.out, fps=args.fps)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    if not answer.masks:
        sys.stdout.write("The model pointed at nothing: there is no [SEG] in its answer.\n")
    sys.stdout.write(f"{answer.text}\n{args.out}\n")


if __name__ == "__main__":
    main()
