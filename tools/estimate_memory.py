"""What training a config takes of each GPU, without weights, data or a GPU.

tools/estimate_memory.py CONFIG --gpus 8 --zero 2
tools/estimate_memory.py CONFIG CONFIG ... --gpus 8 --zero 2 3      a table
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import DictAction  # noqa: E402

import projects  # noqa: E402, F401  (compatibility lines first)
from projects.common.engine.config import load_config  # noqa: E402
from projects.common.engine.memory import OFFLOADS, Run  # noqa: E402
from projects.common.engine.memory_page import table  # noqa: E402
from projects.common.progress import track  # noqa: E402
from projects.llava_sam2.estimate import Estimate  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", metavar="CONFIG")
    parser.add_argument("--gpus", type=int, default=1, help="processes of the run")
    parser.add_argument("--zero", type=int, nargs="+", default=[0], help="stages; 0: without")
    parser.add_argument("--offload", choices=OFFLOADS, default="none", help="to the host's memory")
    parser.add_argument("--tokens", type=int, help="longest conversation, if below max_length")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value ..."
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        runs = [Run(args.gpus, stage, args.offload) for stage in args.zero]
        if len(args.configs) == 1:
            estimate = _estimate(args.configs[0], args)
            text = "\n\n".join(estimate.report(run) for run in runs)
        else:
            rows = []
            for config in track(args.configs, description="estimating"):
                estimate = _estimate(config, args)
                rows.append((Path(config).stem, [estimate.needs(run) for run in runs]))
            text = table(rows)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    sys.stdout.write(text + "\n")


def _estimate(config: str, args: argparse.Namespace) -> Estimate:
    try:
        return Estimate(load_config(config, args.cfg_options), tokens=args.tokens)
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from error


if __name__ == "__main__":
    main()
