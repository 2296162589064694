"""A checkpoint becomes a predictor, whoever wrote it.

--model-cfg CONFIG.py + our checkpoint, Meta's .pt, transformers' folder ─► the config's model ┐
Meta's .pt, transformers' folder, our whole checkpoint ─► pretrained_sam2(size of the file) ───┴►
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from projects.common.checkpoint import INDEX_NAME, State, read_state
from projects.common.engine import checkpoints
from projects.common.engine.check import check_model
from projects.common.engine.config import load_config, plain
from projects.common.engine.model import build_model
from projects.sam2_video.modeling.blocks import Sam2
from projects.sam2_video.modeling.config import SIZES
from projects.sam2_video.predictor import VideoPredictor
from projects.sam2_video.pretrained import (
    PATCH,
    load_sam2_state,
    pretrained_sam2,
    read_sam2_state,
    weights_kind,
)

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class ModelSpec:
    """What to load and how it runs; plain values, so that worker processes can be told.

    Args:
        checkpoint: Meta's ``.pt``, a work dir, checkpoint folder or weights file of ours, or a
            folder of transformers.
        model_cfg: config file whose ``model`` is built; without it a released size is.
        size: ``tiny``, ``small``, ``base_plus`` or ``large``; None: what the file holds. Only
            without ``model_cfg``.
        image_size: side of the input in pixels; None: 1024. Only without ``model_cfg``.
        ema: the averaged weights of our checkpoint. Only with ``model_cfg``.
        precision: None: the config's, or bf16 on a GPU and fp32 elsewhere.
        resize: how frames become the input, ``meta`` or ``training``; None: ``training`` with a
            config, else ``meta``, as the released weights' scores were taken.
        object_chunk: objects at most that are tracked in one batch; None: all.
    """

    checkpoint: str
    model_cfg: str | None = None
    size: str | None = None
    image_size: int | None = None
    ema: bool = False
    precision: Precision | None = None
    resize: Literal["training", "meta"] | None = None
    object_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.model_cfg is not None:
            if not self.model_cfg.endswith(".py"):
                raise ValueError(
                    f"--model-cfg {self.model_cfg} is no config of this project (.py); for a "
                    "released model leave it out, the checkpoint tells its size"
                )
            if self.size is not None or self.image_size is not None:
                raise ValueError("size and image size are the config's: leave them out")
        elif self.ema:
            raise ValueError("averaged weights need the config that they were trained with")

    def check(self) -> None:
        """Find mistakes in what the user named, before anything takes time.

        Raises:
            FileNotFoundError, ValueError: no such file, no SAM 2, or mistakes in the config.
        """
        if self.model_cfg is None:
            self._kind(read_sam2_state(self.checkpoint))
        else:
            self._config()
            if not Path(self.checkpoint).exists():
                raise FileNotFoundError(f"checkpoint {self.checkpoint} does not exist")

    def predictor(self, device: torch.device | str, *, non_overlapping: bool) -> VideoPredictor:
        """The predictor on a device, in eval mode, without postprocessing of masks.

        Raises:
            ValueError: weights that are no numbers, of which all masks would be empty.
        """
        device = torch.device(device)
        automatic: Precision = "bf16" if device.type == "cuda" else "fp32"
        if self.model_cfg is None:
            predictor = VideoPredictor(
                self._released().to(device), resize="meta", precision=automatic
            )
        else:
            tree = self._config()
            model = self._trained(tree).to(device)
            predictor = model.video_predictor()
            predictor.precision = tree.get("precision", "fp32")
        _require_finite(predictor.sam2, self.checkpoint)
        predictor.sam2.eval()
        predictor.resize = self.resize or predictor.resize
        predictor.precision = self.precision or predictor.precision
        predictor.non_overlapping = non_overlapping
        predictor.object_chunk = self.object_chunk
        return predictor

    def _released(self) -> Sam2:
        size, version, num_maskmem = self._kind(read_sam2_state(self.checkpoint))
        return pretrained_sam2(
            size=size,
            checkpoint=self.checkpoint,
            version=version,
            num_maskmem=num_maskmem,
            image_size=self.image_size or 1024,
        )

    def _kind(self, state: State) -> tuple[str, str, int]:
        kind = weights_kind(state)
        size = self.size or (kind.size if kind else None)
        if kind is None or size is None:
            raise ValueError(
                f"{self.checkpoint} is not a whole SAM 2 of a released size "
                f"({', '.join(SIZES)}): give the config that it was trained with (--model-cfg)"
            )
        return size, kind.version, kind.num_maskmem

    def _config(self) -> dict[str, Any]:
        """What builds the config's model; its data need not be here."""
        tree = plain(load_config(str(self.model_cfg)))
        tree = {key: tree[key] for key in ("model", "precision", "seed") if key in tree}
        check_model(tree)
        return tree

    def _trained(self, tree: dict[str, Any]) -> Any:
        model = build_model(tree, int(tree.get("seed", 0)))
        if not hasattr(model, "video_predictor"):
            raise ValueError(f"{self.model_cfg}: {type(model).__name__} does not track masks")
        if not _is_released(self.checkpoint):
            checkpoints.load_model(model, self.checkpoint, ema=self.ema)
            return model
        sam2 = model.video_predictor().sam2
        state = read_sam2_state(self.checkpoint)
        kind = weights_kind(state)
        version = kind.version if kind else "2.1"
        load_sam2_state(sam2, state, version=version, where=self.checkpoint)
        return model


def _require_finite(sam2: Sam2, where: str) -> None:
    broken = [name for name, value in sam2.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{where}: {len(broken)} tensors hold NaN or infinity, first: {broken[0]}; the run "
            "that wrote it diverged, take an earlier checkpoint"
        )


def _is_released(path: str) -> bool:
    """Meta's or transformers' names; ours stand behind those of the model that trained."""
    sharded = (Path(path) / INDEX_NAME).is_file()
    state = read_state(path if sharded else checkpoints.weights_file(path))
    return PATCH in state or any(key.startswith("image_encoder.trunk.") for key in state)


def add_model_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The fields of :class:`ModelSpec` as arguments."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--checkpoint",
        "--sam2_checkpoint",
        required=required,
        help="Meta's .pt, a checkpoint of this project, or a folder of transformers",
    )
    group.add_argument("--model-cfg", help="config (.py) of a model trained here")
    group.add_argument("--size", choices=list(SIZES), help="default: what the checkpoint holds")
    group.add_argument("--image-size", type=int, help="side of the input, default 1024")
    group.add_argument("--ema", action="store_true", help="averaged weights of our checkpoint")
    group.add_argument("--precision", choices=("fp32", "bf16"), help="default: bf16 on GPUs")
    group.add_argument(
        "--resize",
        choices=("training", "meta"),
        help="how frames become the input, default: training with --model-cfg, else meta",
    )
    group.add_argument("--object-chunk", type=int, help="objects in a batch at most")


def model_spec(args: argparse.Namespace) -> ModelSpec:
    return ModelSpec(
        checkpoint=args.checkpoint,
        model_cfg=args.model_cfg,
        size=args.size,
        image_size=args.image_size,
        ema=args.ema,
        precision=args.precision,
        resize=args.resize,
        object_chunk=args.object_chunk,
    )
