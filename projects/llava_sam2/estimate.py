"""How much memory a config's training takes, without its weights, its data and a GPU.

    config ─► the same without files ─► model on the meta device ─► a step of each largest batch
                                                    └─────────────► bytes that stay ─► report

A language model whose folder is there tells its size by ``config.json``, of one that is not the
released name does (``InternVL2_5-4B``).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from projects.common.engine.check import check_model
from projects.common.engine.config import plain
from projects.common.engine.fake_step import Held, fake_step, settle, without_contents
from projects.common.engine.memory import (
    Needs,
    Run,
    checkpoint_bytes,
    needs,
    optimizer_bytes,
)
from projects.common.engine.memory_page import report
from projects.common.engine.model import TrainableModel, build_model
from projects.llava_sam2.hf.architectures import RELEASED
from projects.llava_sam2.hf.placeholder import byte_tokenizer
from projects.llava_sam2.hf.qwen_vl_sizes import QWEN_VL
from projects.llava_sam2.largest import TalkShape, largest_shapes
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.sam2_video.largest import ClipShape
from projects.sam2_video.train_model import Sam2VideoTraining

HINTS = {
    Sa2VA: (
        "train_dataloader.batch_size=1 with more accumulative_counts, fewer tiles (max_tiles), a "
        "shorter max_length, rows_per_chunk and frames_per_chunk of the segment head, "
        "gradient_checkpointing"
    ),
    Sam2VideoTraining: (
        "GPU_MEMORY=24 (16, 12) in the environment, which recomputes more, fewer frames or objects "
        "(sampler), a smaller image_size"
    ),
}


class Estimate:
    """A config's model without contents, and the activations of its batches.

    Args:
        cfg: of ``load_config``.
        tokens: longest conversation, where data are known to be shorter than ``max_length``.
        device: ``cuda`` or ``cpu``: whose kernels are followed.
        task: the only one whose batches are tried; None for all.

    Raises:
        ValueError: see :func:`prepare`.
    """

    def __init__(
        self,
        cfg: Config,
        *,
        tokens: int | None = None,
        device: str = "cuda",
        task: str | None = None,
    ) -> None:
        self.tree, self.shapes = prepare(cfg, tokens=tokens, task=task)
        with torch.device("meta"):
            self.model = build_model(self.tree, int(self.tree.get("seed", 0))).train()
        with without_contents(device) as ledger:
            settle(self.model)
            self.steps: dict[str, Held] = {
                name: fake_step(self.model, partial(make_batch, self.model, shape), ledger)
                for name, shape in self.shapes.items()
            }

    def needs(self, run: Run) -> Needs:
        """What a run needs."""
        return needs(
            self.model,
            self.steps,
            run,
            optimizer=self.tree["optim_wrapper"]["optimizer"],
            ema=self.tree.get("ema") is not None,
        )

    def report(self, run: Run) -> str:
        """A page about a run, with what else may be tried where it does not fit."""
        checkpoint = checkpoint_bytes(
            self.model,
            state_per_element=optimizer_bytes(self.tree["optim_wrapper"]["optimizer"]),
            zero_stage=run.zero_stage,
            ema=self.tree.get("ema") is not None,
        )
        others = {name: self.needs(other) for name, other in _others(run).items()}
        hints = next(text for kind, text in HINTS.items() if isinstance(self.model, kind))
        return report(self.model, self.needs(run), others, checkpoint, hints)


def prepare(
    cfg: Config, *, tokens: int | None = None, task: str | None = None
) -> tuple[dict[str, Any], dict[str, TalkShape | ClipShape]]:
    """A config that builds without files, and its largest batches by what they hold.

    Arguments as of :class:`Estimate`. It takes a moment: mistakes are found before the first of
    many configs is counted.

    Raises:
        ValueError: mistakes in the model's config, a part whose size nothing tells, or no such
            task.
    """
    tree = plain(cfg)
    tree["model"] = without_files(tree["model"], "model")
    check_model(tree)
    shapes = largest_shapes(tree["train_dataloader"], tokens=tokens)
    chosen = {str(shape): shape for shape in shapes if task in (None, shape.task)}
    if not chosen:
        names = ", ".join(sorted({shape.task for shape in shapes}))
        raise ValueError(f"train_dataloader has no task {task!r}; it has {names}")
    return tree, chosen


def _others(run: Run) -> dict[str, Run]:
    """Runs that need less, from the least trouble to the most."""
    found = {}
    if run.gpus > 1:
        found = {f"--zero {stage}": Run(run.gpus, stage) for stage in (2, 3)}
    for stage, offload in ((2, "optimizer"), (3, "all")):
        name = f"--zero {stage} --offload {offload}"
        found[name] = Run(run.gpus, stage, offload)
    return {name: other for name, other in found.items() if other != run}


def make_batch(model: TrainableModel, shape: Any) -> Any:
    """The batch of a shape for a model; pixels are on the meta device."""
    if isinstance(shape, TalkShape):
        return shape.batch(model)
    if isinstance(model, Sam2VideoTraining):
        return shape.batch(side=model.sam2.image_size, simulator=model.unroll.simulator)
    unroll = getattr(model.heads[shape.task], "unroll", None)
    simulator = None if unroll is None else unroll.simulator
    return shape.batch(side=model.grounding.image_size, simulator=simulator)


def with_pixels(batch: Any) -> Any:
    """The batch of :func:`make_batch` for a real step: black pixels, zero features."""
    filled = {
        field.name: torch.zeros_like(value, device="cpu")
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), torch.Tensor) and value.is_meta
    }
    return dataclasses.replace(batch, **filled)


def without_files(config: Any, where: str) -> Any:
    """A model's config that builds without weights: random ones of the same size.

    Raises:
        ValueError: a folder that is not there and has no released name.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(without_files(v, f"{where}[{n}]") for n, v in enumerate(config))
    if not isinstance(config, Mapping):
        return config
    plainly = {key: without_files(value, f"{where}.{key}") for key, value in config.items()}
    if "checkpoint" in plainly:
        plainly["checkpoint"] = None
    if "path" not in plainly or "type" not in plainly:
        return plainly
    if "tokenizer" not in str(getattr(plainly["type"], "__name__", plainly["type"])):
        return _sized(plainly, where)
    return plainly if Path(plainly["path"]).is_dir() else {"type": byte_tokenizer}


def _sized(config: dict[str, Any], where: str) -> dict[str, Any]:
    """A builder of weights by the size of its folder."""
    path = config["path"]
    if path is None or any(Path(path).glob("*.safetensors")):
        return config
    size = re.search(r"(Qwen[\d.]+-VL-)?\d+B\b", Path(path).name)
    if size is None or size[0] not in (*RELEASED, *QWEN_VL):
        raise ValueError(
            f"{where}.path: {path} holds no weights (*.safetensors) whose headers would tell their "
            f"size, and its name is of no released size ({', '.join((*RELEASED, *QWEN_VL))})"
        )
    return {**config, "path": None, "size": size[0]}
