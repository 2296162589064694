"""A config and a checkpoint become scores."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from mmengine.config import Config

from projects.common.engine import checkpoints
from projects.common.engine.benchmarks import build_benchmarks, choose, run_benchmarks
from projects.common.engine.check import check_config
from projects.common.engine.config import plain
from projects.common.engine.distributed import (
    barrier,
    get_rank,
    infer_launcher,
    init_distributed,
)
from projects.common.engine.model import build_model

logger = logging.getLogger(__name__)


def evaluate_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    *,
    work_dir: str | Path,
    benchmarks: list[str] | None = None,
    launcher: str | None = None,
    ema: bool = False,
) -> dict[str, float]:
    """Run benchmarks and merge their scores into ``work_dir/scores.json``.

    Args:
        cfg: the config that the checkpoint was trained with.
        checkpoint: what ``checkpoints.load_model`` takes, whichever launcher trained it.
        benchmarks: names to run, default all of the config's.
        ema: evaluate the averaged weights of the checkpoint.

    Returns:
        The scores of these benchmarks, ``{"<benchmark>/<metric>": value}``, on every rank.

    Raises:
        ValueError: mistakes in the config, an unknown benchmark, weights that do not fit.
        FileNotFoundError: no such checkpoint.
    """
    tree = plain(cfg)
    check_config(tree, train=False)
    names = choose(list(tree.get("benchmarks", {})), benchmarks)
    checkpoints.weights_file(checkpoint, ema=ema)
    init_distributed(launcher or infer_launcher())
    seed = int(tree.get("seed", 0))
    model = build_model(tree, seed)
    checkpoints.load_model(model, checkpoint, ema=ema)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    scores: dict[str, float] = {}
    for name in names:  # one after the other: the data of one may be large
        benchmark = build_benchmarks(tree, [name])
        scores |= run_benchmarks(benchmark, model, Path(work_dir) / "predictions", seed=seed)
    if get_rank() == 0:
        merge_scores(Path(work_dir) / "scores.json", scores)
        for key, value in scores.items():
            if "[" not in key:  # break-downs are in the file
                logger.info("%s %.4f", key, value)
    barrier()
    return scores


def merge_scores(path: Path, scores: dict[str, float]) -> None:
    """Update a flat json file of scores, whole or not at all."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    checkpoints.write_text(path, json.dumps({**before, **scores}, indent=1) + "\n")
