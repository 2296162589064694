"""Fine-tune SAM 2 on videos in SA-V's layout.

    python projects/sav_finetune/train_sav.py --train-frames DIR --train-annotations DIR \
        --checkpoint sam2.1_hiera_tiny.pt --gpus 8

Everything is checked first, and all mistakes are reported at once. Then the configuration is
written to ``<experiment dir>/train_sav.py`` and started by ``tools/dist.sh``, or on a cluster by
``tools/slurm.sh``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmengine.config import DictAction  # noqa: E402

import projects  # noqa: E402, F401  (compatibility lines first)
from projects.common.engine.checkpoints import write_text  # noqa: E402
from projects.sam2_video.data.sav import KINDS  # noqa: E402
from projects.sam2_video.modeling.config import SIZES  # noqa: E402
from projects.sav_finetune.prepare import NAME, prepare  # noqa: E402
from projects.sav_finetune.start import Start, start_command  # noqa: E402


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    data = parser.add_argument_group("data")
    data.add_argument(
        "--train-frames",
        type=Path,
        required=True,
        metavar="DIR",
        help="holds <id>/%%05d.jpg, or <id>.mp4",
    )
    data.add_argument(
        "--train-annotations",
        type=Path,
        required=True,
        metavar="DIR",
        help="holds <id>_manual.json",
    )
    data.add_argument(
        "--file-list", type=Path, metavar="FILE", help="ids to train on, one a line (default: all)"
    )
    data.add_argument(
        "--annotation-kind", choices=KINDS, default=KINDS[0], help="which json (default: manual)"
    )
    data.add_argument(
        "--ann-every", type=int, default=4, metavar="N", help="a mask on every n-th frame (SA-V: 4)"
    )
    data.add_argument(
        "--val-frames",
        type=Path,
        metavar="DIR",
        help="frames of a validation set in sav_val's layout (default: no validation)",
    )
    data.add_argument(
        "--val-annotations", type=Path, metavar="DIR", help="its PNGs, a folder per object"
    )
    data.add_argument(
        "--val-list", type=Path, metavar="FILE", help="its video ids, one a line (default: all)"
    )

    model = parser.add_argument_group("model")
    model.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="Meta's .pt, a checkpoint of this project, or a transformers folder",
    )
    model.add_argument("--model-size", choices=tuple(SIZES), help="default: what the checkpoint is")
    model.add_argument(
        "--model-cfg",
        type=Path,
        metavar="FILE",
        help="config to start from, in place of the size's own",
    )
    model.add_argument(
        "--image-size", type=int, metavar="N", help="pixels, a multiple of 32 (default: 1024)"
    )

    run = parser.add_argument_group("run")
    run.add_argument(
        "--experiment-dir",
        type=Path,
        metavar="DIR",
        default=Path("work_dirs/train_sav"),
        help="config, checkpoints and logs go there (default: work_dirs/train_sav)",
    )
    for flag, text in (
        ("batch-size", "clips a GPU (default: 1)"),
        ("epochs", "passes over the videos (default: 40)"),
        ("num-frames", "of a clip (default: 8)"),
        ("max-objects", "of a clip (default: 3)"),
        ("num-workers", "loader processes a GPU (default: 8)"),
        ("seed", "of everything that is drawn (default: 123)"),
    ):
        run.add_argument(f"--{flag}", type=int, metavar="N", help=text)
    run.add_argument(
        "--gpus", type=int, required=True, metavar="N", help="on each node; processes on a CPU"
    )
    run.add_argument("--resume", action="store_true", help="go on with the experiment dir's run")
    run.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="anything else of the config, such as optim_wrapper.optimizer.lr=1e-5",
    )
    run.add_argument("--dry-run", action="store_true", help="check, show the command, end")

    cluster = parser.add_argument_group("cluster (SLURM)")
    cluster.add_argument(
        "--use-cluster", type=int, choices=(0, 1), default=0, help="1: a job of srun (default: 0)"
    )
    cluster.add_argument("--partition", metavar="NAME", help="where the job runs")
    cluster.add_argument("--account", metavar="NAME", help="who pays for it")
    cluster.add_argument("--qos", metavar="NAME", help="its quality of service")
    cluster.add_argument("--num-nodes", type=int, default=1, metavar="N", help="default: 1")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_args(arguments)
    cfg, mistakes = prepare(options)
    if cfg is None or mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = [mistake.replace("\n", "\n  ") for mistake in mistakes]
        sys.exit("\n  ".join([f"nothing was started, there are {count}:", *lines]))
    config = options.experiment_dir.absolute() / NAME
    start = start_command(options, config=config)
    sys.stdout.write(f"{shown(start)}\n")
    if options.dry_run:
        return
    config.parent.mkdir(parents=True, exist_ok=True)
    write_text(config, cfg.pretty_text)
    sys.stdout.flush()  # the command takes the place of this process
    os.execvpe(start.command[0], start.command, {**os.environ, **start.environment})


def shown(start: Start) -> str:
    """The command as a person would type it."""
    settings = [f"{key}={shlex.quote(value)}" for key, value in start.environment.items()]
    return " ".join([*settings, shlex.join(start.command)])


if __name__ == "__main__":
    main()
