"""What training a config takes of each GPU, without weights, data or a GPU.

tools/estimate_memory.py CONFIG --gpus 8 --zero 2
tools/estimate_memory.py CONFIG CONFIG ... --gpus 8 --zero 2 3      a table
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import Config, DictAction  # noqa: E402

import projects  # noqa: E402, F401  (compatibility lines first)
from projects.common.engine.config import load_config  # noqa: E402
from projects.common.engine.memory import OFFLOADS, Run  # noqa: E402
from projects.common.engine.memory_page import table  # noqa: E402
from projects.common.progress import track  # noqa: E402
from projects.llava_sam2.estimate import Estimate, prepare  # noqa: E402


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
        text = _table(args, runs) if len(args.configs) > 1 else _page(args, runs)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    sys.stdout.write(text + "\n")


def _page(args: argparse.Namespace, runs: list[Run]) -> str:
    estimate = Estimate(_checked(args.configs[0], args), tokens=args.tokens)
    return "\n\n".join(estimate.report(run) for run in runs)


def _table(args: argparse.Namespace, runs: list[Run]) -> str:
    loaded = [_checked(config, args) for config in args.configs]
    rows = []
    for path, cfg in track(list(zip(args.configs, loaded, strict=True)), description="estimating"):
        estimate = Estimate(cfg, tokens=args.tokens)
        rows.append((Path(path).stem, [estimate.needs(run) for run in runs]))
    return table(rows)


def _checked(path: str, args: argparse.Namespace) -> Config:
    """A config in which nothing is missing: told before the first is counted."""
    try:
        cfg = load_config(path, args.cfg_options)
        prepare(cfg, tokens=args.tokens)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return cfg


if __name__ == "__main__":
    main()
