"""A page with what the model gets: ``tools/browse_dataset.py CONFIG [--dataset NAME] [--n 20]``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import DictAction

import projects  # noqa: F401  (compatibility lines first)
from projects.common.engine.config import load_config, plain
from projects.llava_sam2.browse.draw import browse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path of the config file")
    parser.add_argument("--dataset", nargs="+", help="only these, by name or as train[0]")
    parser.add_argument("--n", type=int, default=20, help="samples of each dataset")
    parser.add_argument("--seed", type=int, default=0, help="of frames, phrasings, augmentations")
    parser.add_argument("--output", type=Path, help="default: work_dirs/browse/<config>.html")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value ..."
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = Path(args.config).stem
    output = args.output or Path("work_dirs") / "browse" / f"{name}.html"
    try:
        tree = plain(load_config(args.config, args.cfg_options))
        browse(tree, output, title=name, names=args.dataset, count=args.n, seed=args.seed)
    except (ValueError, OSError) as error:
        sys.exit(f"{args.config}: {error}")
    sys.stdout.write(f"{output}\n")


if __name__ == "__main__":
    main()
