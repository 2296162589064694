"""Fine-tune SAM 2 from a page of YAML (docs/finetune_yaml.md).

    python tools/finetune_sam2.py --create-config my.yaml        # every key with its meaning
    python tools/finetune_sam2.py --config my.yaml --check       # find all mistakes
    python tools/finetune_sam2.py --config my.yaml --debug       # two steps
    python tools/finetune_sam2.py --config my.yaml --lr 1e-5     # train

The output folder holds the checkpoints (newest and best), the page and the config as run, the
metrics and the TensorBoard logs. Its config.py is one that tools/train.py and tools/test.py take.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import projects  # noqa: E402, F401  (compatibility lines first)
from projects.common.engine.config import load_config  # noqa: E402
from projects.common.engine.distributed import leave_distributed  # noqa: E402
from projects.common.engine.runner import build_runner  # noqa: E402
from projects.common.registry import ConfigError  # noqa: E402
from projects.sam2_video.finetune.prepare import (  # noqa: E402
    Prepared,
    for_debugging,
    prepare,
    with_overrides,
)
from projects.sam2_video.finetune.template import commented_page  # noqa: E402
from projects.sam2_video.finetune.yaml_page import parse_page, read_page  # noqa: E402

FLAGS = {  # flag: (key of the page, type, help)
    "output": ("output", str, "folder of everything that is written"),
    "checkpoint": ("model.checkpoint", str, "weights to start from"),
    "lr": ("trainer.lr", float, "learning rate"),
    "vision-lr": ("trainer.vision_lr", float, "learning rate of the image encoder"),
    "max-epochs": ("trainer.max_epochs", float, "length of the run in epochs"),
    "max-steps": ("trainer.max_steps", int, "length of the run in steps"),
    "batch-size": ("trainer.batch_size", int, "clips a device and step"),
    "devices": ("trainer.devices", int, "GPUs (without one: processes on the CPU)"),
    "workers": ("trainer.workers", int, "loader processes a device"),
    "seed": ("trainer.seed", int, "of everything that is drawn"),
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fine-tune SAM 2 from a page of YAML.",
        epilog="Values of the command line go before those of the page.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--create-config", metavar="FILE", help="write a commented page of every key, and stop"
    )
    what.add_argument("--config", metavar="FILE", help="the page to train")
    for flag, (key, kind, text) in FLAGS.items():
        meta = "N" if kind is not str else "PATH"
        parser.add_argument(f"--{flag}", dest=key, type=kind, metavar=meta, help=f"{text} ({key})")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="any other key: prompts.box=0.2"
    )
    parser.add_argument("--no-wandb", action="store_true", help="no Weights & Biases")
    parser.add_argument("--resume", action="store_true", help="go on with the newest checkpoint")
    parser.add_argument("--check", action="store_true", help="find mistakes and stop")
    parser.add_argument(
        "--debug", action="store_true", help="two steps and one scored video in OUTPUT_debug"
    )
    return parser.parse_args(arguments)


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says in place of the page, by key."""
    given = {key: getattr(args, key) for key, _, _ in FLAGS.values()}
    changes = {key: value for key, value in given.items() if value is not None}
    for entry in args.set:
        key, separator, value = entry.partition("=")
        if not separator:
            raise ConfigError(f"--set {entry!r}: give KEY=VALUE, such as prompts.box=0.2")
        changes[key] = parse_page(f"value: {value}", where=f"--set {entry}").data["value"]
    if args.no_wandb:
        changes["trainer.wandb"] = None
    return changes


def create(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} exists already: name another file, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commented_page(), encoding="utf-8")
    sys.stdout.write(f"{path} written: fill in 'dataset', then --config {path} --check\n")


def ready(args: argparse.Namespace) -> Prepared:
    page = with_overrides(read_page(args.config), overrides(args))
    if args.debug:
        page = for_debugging(page)
    if args.check:
        with tempfile.TemporaryDirectory() as folder:
            return prepare(page, resume=args.resume, overwrite=args.debug, folder=Path(folder))
    return prepare(page, resume=args.resume, overwrite=args.debug)


def train_here(run: Prepared, *, resume: bool) -> None:
    runner = build_runner(
        load_config(run.config), work_dir=run.output, resume=resume, launcher="none"
    )
    runner.train()
    leave_distributed()


def train_on_many(run: Prepared, *, resume: bool) -> int:
    """One process per device, by the launcher of every other training."""
    devices = str(run.page.trainer.devices)
    command = ["bash", str(ROOT / "tools" / "dist.sh"), "train", str(run.config), devices]
    command += ["--work-dir", str(run.output), *(["--resume"] if resume else [])]
    # plain data parallelism: a SAM 2 is small beside its activations, ZeRO would save little
    return subprocess.run(command, env=os.environ | {"DEEPSPEED": ""}, check=False).returncode


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        if args.create_config:
            create(Path(args.create_config))
            return 0
        run = ready(args)
    except (ConfigError, FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"{args.config or args.create_config}: {error}\n")
        return 2
    sys.stdout.write(f"{run.videos} to train on, {run.held_out} held out; output in {run.output}\n")
    if args.check:
        return 0
    if run.page.trainer.devices > 1:
        return train_on_many(run, resume=args.resume)
    train_here(run, resume=args.resume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
