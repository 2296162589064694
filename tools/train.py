"""Train a config: ``tools/train.py CONFIG [--work-dir D] [--resume [PATH]] ...``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import DictAction  # noqa: E402

import projects  # noqa: E402, F401  (compatibility lines first)
from projects.common.engine.check import where_to_get  # noqa: E402
from projects.common.engine.config import load_config  # noqa: E402
from projects.common.engine.distributed import LAUNCHERS, leave_distributed, refuse  # noqa: E402
from projects.common.engine.runner import build_runner, planned_run  # noqa: E402
from projects.common.registry import ConfigError  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a config.")
    parser.add_argument("config", help="path of the config file")
    parser.add_argument("--work-dir", help="default: work_dirs/<config name>")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        help="go on with the newest checkpoint of the work dir, or with the folder given",
    )
    parser.add_argument("--load-from", help="start anew from these weights")
    parser.add_argument("--seed", type=int, help="overrides the config's")
    parser.add_argument("--deepspeed", help="deepspeed_zero1, 2, 3 (_offload), or a json file")
    parser.add_argument("--launcher", choices=LAUNCHERS, help="default: by the environment")
    parser.add_argument(
        "--estimate-memory",
        nargs="?",
        const=1,
        type=int,
        metavar="GPUS",
        help="say what each of so many GPUs would hold, and train nothing",
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value ..."
    )
    args = parser.parse_args()
    if args.estimate_memory is not None and args.estimate_memory < 1:
        parser.error(f"--estimate-memory {args.estimate_memory}: give the number of GPUs, from 1")
    if args.resume and args.load_from:
        parser.error("--resume goes on with a run, --load-from starts a new one: give one of them")
    return args


def main() -> None:
    args = parse_args()
    work_dir = Path(args.work_dir or Path("work_dirs") / Path(args.config).stem)
    try:
        cfg = load_config(args.config, args.cfg_options)
        if args.seed is not None:
            cfg.seed = args.seed
        if args.estimate_memory is not None:
            from projects.llava_sam2.estimate import Estimate  # imports all models

            run = planned_run(args.estimate_memory, args.deepspeed)
            sys.stdout.write(Estimate(cfg).report(run) + "\n")
            return
        runner = build_runner(
            cfg,
            work_dir=work_dir,
            resume=args.resume,
            load_from=args.load_from,
            deepspeed=args.deepspeed,
            launcher=args.launcher,
        )
    except ConfigError as error:
        refuse(f"{args.config}: {error}{where_to_get(error)}")
    except FileNotFoundError as error:
        refuse(str(error))
    runner.train()
    leave_distributed()


if __name__ == "__main__":
    main()
