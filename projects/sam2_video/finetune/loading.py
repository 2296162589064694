"""What a fine-tuning has made, ready to track."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from projects.common.engine import checkpoints
from projects.common.engine.check import check_model
from projects.common.engine.config import load_config, plain
from projects.common.engine.model import build_model
from projects.common.freezing import has_lora, merge_lora
from projects.sam2_video.finetune.prepare import CONFIG
from projects.sam2_video.modeling.blocks import Sam2


def finetuned_sam2(
    output: str | Path, *, which: Literal["best", "last"] = "best", ema: bool = False
) -> Sam2:
    """The SAM 2 of an output folder in eval mode, its LoRA matrices merged.

    Args:
        output: folder of ``tools/finetune_sam2.py``.
        which: the checkpoint with the best validation score, or the newest.
        ema: averaged weights, of a run that has them.

    Raises:
        FileNotFoundError: no such folder, or no checkpoint in it.
        ValueError: the weights that the run started from are others than in training.
    """
    output = Path(output)
    tree = plain(load_config(output / CONFIG))
    check_model(tree)
    folder = output / checkpoints.BEST_FOLDER if which == "best" else output
    checkpoints.weights_file(folder, ema=ema)  # before the model is built
    model = build_model(tree, int(tree["seed"]))
    checkpoints.load_model(model, folder, ema=ema)
    if has_lora(model.sam2):
        merge_lora(model.sam2)
    return model.sam2.eval()
