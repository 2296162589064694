"""The base class of everything that trains.

{"batch": batch} --data_preprocessor--> on the device --forward--> loss parts --sum--> loss
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor

from projects.common import registry
from projects.common.engine.seeding import seed_everything

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}


class BatchToDevice(BaseDataPreprocessor):
    """Moves a typed batch, which knows how to move itself, to the model's device."""

    def forward(self, data: dict, training: bool = False) -> dict:
        return {"batch": data["batch"].to(self.device, non_blocking=True)}


class TrainableModel(BaseModel):
    """A model that turns a typed batch into weighted losses.

    Subclasses implement :meth:`loss`. With precision ``bf16`` it runs under autocast, so that both
    launchers do the same arithmetic and prompts in float32 meet weights in bfloat16.
    """

    precision: str = "fp32"
    shares_sequences: bool = False  # whether sequence_parallel_size above 1 means anything
    builds_without_weights: bool = False  # whether its parts can be built on the meta device

    def misfits(self, dataset: Any) -> list[str]:
        """Settings of a dataset that this model could not train on, in words."""
        return []

    def __init__(self) -> None:
        super().__init__(data_preprocessor=BatchToDevice())

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Losses of a batch, weighted: keys that start with ``loss_`` are added up and minimised,
        others are logged only (and must not contain the word "loss")."""
        raise NotImplementedError

    def forward(self, batch: Any, mode: str = "loss") -> dict[str, Tensor]:
        """What mmengine and DeepSpeed call.

        Raises:
            ValueError: any ``mode`` but ``"loss"``; predictions go through the model's own verbs.
        """
        if mode != "loss":
            raise ValueError(
                f"forward has no mode {mode!r}: it computes losses (mode 'loss'); "
                "predictions are made by the benchmarks"
            )
        with self.autocast():
            return self.loss(batch)

    def autocast(self) -> torch.autocast:
        """The context of :attr:`precision`, for training and evaluation alike."""
        dtype = PRECISIONS[self.precision]
        device = next(self.parameters()).device.type
        return torch.autocast(device, dtype=dtype, enabled=dtype is not None)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the weighted parts.

        mmengine adds every key that contains "loss", so a total beside its parts would count
        twice; here such a key is an error.

        Raises:
            ValueError: no part at all, or a key with "loss" in it that does not start with
                ``loss_``.
        """
        wrong = [key for key in losses if "loss" in key and not key.startswith("loss_")]
        if wrong or not any(key.startswith("loss_") for key in losses):
            raise ValueError(
                f"{type(self).__name__}.loss returned the keys {sorted(losses)}: weighted parts "
                "start with 'loss_', at least one, and no other key contains 'loss'"
            )
        total, logged = super().parse_losses(losses)
        return total, {key: value.detach() for key, value in logged.items()}

    def init_weights(self) -> None:
        """Leave the weights alone: constructors initialise, and mmengine would walk into
        transformers' methods of the same name and undo what was loaded."""


def build_model(tree: dict[str, Any], seed: int) -> TrainableModel:
    """Build a config's model; the seed decides its initial weights on every rank alike."""
    seed_everything(seed)
    model = registry.build(tree["model"])
    model.precision = tree.get("precision", "fp32")
    return model
