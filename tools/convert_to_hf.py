"""A trained grounded model as a folder: ``tools/convert_to_hf.py CONFIG CHECKPOINT OUT``.

LoRA is merged, or kept as an adapter (--keep-lora). The folder loads again with one line,
``projects.llava_sam2.hf.load(OUT)``; see docs/language_checkpoints.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import DictAction

import projects  # noqa: F401  (compatibility lines first)
from projects.common.engine import checkpoints
from projects.common.engine.check import check_model
from projects.common.engine.config import load_config, plain
from projects.common.engine.model import build_model
from projects.llava_sam2.evaluation.ask import find_asker
from projects.llava_sam2.hf.adapter import has_lora
from projects.llava_sam2.hf.card import model_card
from projects.llava_sam2.hf.described import describe_frames, describe_inputs
from projects.llava_sam2.hf.internvl import DTYPES
from projects.llava_sam2.hf.shards import parse_size
from projects.llava_sam2.hf.writing import LAYOUTS, check_place, export
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.sec.described import describe_recipe
from projects.llava_sam2.sec.loading import find_recipe

SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a trained model as a folder to load.")
    parser.add_argument("config", help="the config that the checkpoint was trained with")
    parser.add_argument("checkpoint", type=Path, help="weights file, iter_N.pth, or a work dir")
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--keep-lora", action="store_true", help="as an adapter of peft")
    parser.add_argument(
        "--base-layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="names of the language model: transformers' classes, or InternVL's own code",
    )
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE")
    parser.add_argument("--dtype", choices=sorted(SHORT), help="default: each tensor as it is")
    parser.add_argument("--ema", action="store_true", help="the averaged weights")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value ..."
    )
    return parser.parse_args(arguments)


def asked(tree: dict[str, Any]) -> dict[str, Any] | None:
    """How the config asks the model; None where it does not say."""
    ask = find_asker(tree)
    if ask is None:
        return None
    settings = dict(ask.settings)
    question, answer = ask.templates.first("{expression}")
    return {
        "inputs": describe_inputs(settings.pop("inputs")),
        "frames": describe_frames(settings.pop("frames")),
        **settings,
        "question": question,
        "answer": answer,
    }


def tracked(tree: dict[str, Any]) -> dict[str, Any] | None:
    """How the config's first benchmark with guidance tracks; None where none has it."""
    recipe = find_recipe(tree)
    return None if recipe is None else describe_recipe(recipe)


def find_scores(checkpoint: Path) -> dict[str, float] | None:
    """``scores.json`` in or beside the checkpoint, where ``tools/test.py`` left it."""
    for folder in (checkpoint, checkpoint.parent):
        if (folder / "scores.json").is_file():
            return json.loads((folder / "scores.json").read_text())
    return None


def convert(args: argparse.Namespace) -> str:
    check_place(args.out, args.force)
    parse_size(args.max_shard_size)
    tree = plain(load_config(args.config, args.cfg_options))
    check_model(tree)
    checkpoints.weights_file(args.checkpoint, ema=args.ema)
    ask, track = asked(tree), tracked(tree)
    model = build_model(tree, int(tree.get("seed", 0)))
    if not isinstance(model, Sa2VA):
        raise ValueError(
            f"{args.config} builds a {type(model).__name__}; this tool writes grounded language "
            "models (a SAM 2 is converted by tools/convert_sam2.py)"
        )
    checkpoints.load_model(model, args.checkpoint, ema=args.ema)
    lora = "kept in adapter/" if args.keep_lora else "merged"
    card = model_card(
        model,
        name=args.out.name,
        config=Path(args.config).name,
        tree=tree,
        scores=find_scores(args.checkpoint),
        ask=ask,
        track=track,
        lora=lora if has_lora(model) else "none",
    )
    report = export(
        model.eval(),
        args.out,
        layout=args.base_layout,
        keep_lora=args.keep_lora,
        max_shard_size=args.max_shard_size,
        dtype=DTYPES[SHORT[args.dtype]] if args.dtype else None,
        ask=ask,
        track=track,
        card=card,
        force=args.force,
    )
    return str(report)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    args = parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        report = convert(args)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
