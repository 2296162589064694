"""Convert a SAM 2: ``tools/convert_sam2.py IN OUT --to meta|transformers|ours``.

IN is Meta's ``.pt``, a checkpoint of this project (a weights file, ``iter_N.pth``, a work dir) or a
folder of transformers; which one is found out. See docs/checkpoints.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import DictAction
from torch import nn

import projects  # noqa: F401  (compatibility lines first)
from projects.common.engine import checkpoints
from projects.common.engine.check import check_model
from projects.common.engine.config import load_config, plain
from projects.common.engine.model import build_model
from projects.sam2_video.conversion import FORMS, convert


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Convert a SAM 2 between three forms.")
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT", type=Path)
    parser.add_argument("--to", choices=FORMS, required=True)
    rest = parser.add_mutually_exclusive_group()
    rest.add_argument(
        "--start",
        type=Path,
        help="weights that a run of trained parts started from, in any form",
    )
    rest.add_argument("--config", help="or the config that trained IN, which names them")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value ... of --config"
    )
    parser.add_argument("--image-size", type=int, help="for transformers' config (default: 1024)")
    parser.add_argument("--force", action="store_true", help="replace OUT; convert NaN too")
    return parser.parse_args(arguments)


def trained_model(source: Path, config: str, options: dict) -> nn.Module:
    """The model of a config, with the weights that it starts from."""
    checkpoints.weights_file(source)  # before the model is built
    tree = plain(load_config(config, options))
    check_model(tree)
    return build_model(tree, int(tree.get("seed", 0)))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    args = parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        model = args.config and trained_model(args.source, args.config, args.cfg_options)
        report = convert(
            args.source,
            args.target,
            to=args.to,
            start=args.start,
            trained=model or None,
            image_size=args.image_size,
            force=args.force,
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
