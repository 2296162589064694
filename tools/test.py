"""Evaluate a checkpoint: ``tools/test.py CONFIG CHECKPOINT [--benchmarks NAME ...]``.

Records go to ``<work dir>/predictions/<benchmark>.jsonl``, scores to ``<work dir>/scores.json``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import DictAction  # noqa: E402

import projects  # noqa: E402, F401  (compatibility lines first)
from projects.common.engine.check import where_to_get  # noqa: E402
from projects.common.engine.config import load_config  # noqa: E402
from projects.common.engine.distributed import LAUNCHERS, leave_distributed, refuse  # noqa: E402
from projects.common.engine.evaluate import evaluate_checkpoint  # noqa: E402
from projects.common.registry import ConfigError  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on a config's benchmarks.")
    parser.add_argument("config", help="path of the config file")
    parser.add_argument("checkpoint", help="weights file, iter_N.pth folder, or a work dir")
    parser.add_argument("--work-dir", help="default: work_dirs/<config name>")
    parser.add_argument("--benchmarks", nargs="+", help="names of the config's, default all")
    parser.add_argument("--launcher", choices=LAUNCHERS, help="default: by the environment")
    parser.add_argument(
        "--ema", action="store_true", help="evaluate the averaged weights of the checkpoint"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value ..."
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        evaluate_checkpoint(
            load_config(args.config, args.cfg_options),
            args.checkpoint,
            work_dir=args.work_dir or Path("work_dirs") / Path(args.config).stem,
            benchmarks=args.benchmarks,
            launcher=args.launcher,
            ema=args.ema,
        )
    except ConfigError as error:
        refuse(f"{args.config}: {error}{where_to_get(error)}")
    except FileNotFoundError as error:
        refuse(str(error))
    leave_distributed()


if __name__ == "__main__":
    main()
