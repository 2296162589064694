"""Which model tracks with guidance, and how, on a command line.

--checkpoint FOLDER ────────────────────► the folder's model, see loading.py ────┐
--model-cfg CONFIG.py + our checkpoint ─► the config's model, asked as it says ──┴─► SecPredictor
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Literal

import torch

from projects.common.engine.config import load_config, plain
from projects.common.scenes import THRESHOLD
from projects.llava_sam2.sec.loading import check_folder, gate_shut, recipe_of, sec_from_folder
from projects.llava_sam2.sec.predictor import SecInference, SecPredictor
from projects.sam2_video.evaluation.loading import ModelSpec, model_spec


@dataclass(frozen=True)
class SecSpec(ModelSpec):
    """What to load and how it runs, see ``ModelSpec``; ``checkpoint`` is a folder without config.

    Args:
        threshold: of the gate; own: the recipe's. None: shut; a folder's language model is not
            read then.
    """

    threshold: float | None | Literal["own"] = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None:
            raise ValueError("--sec takes a folder, which says its size: leave --size out")

    def check(self) -> None:
        """As for ``ModelSpec``."""
        if self.model_cfg is None:
            check_folder(self.checkpoint)
        else:
            super().check()
            self._recipe()

    def predictor(self, device: torch.device | str, *, non_overlapping: bool) -> SecPredictor:
        """The predictor on a device, in eval mode."""
        device = torch.device(device)
        if self.model_cfg is None:
            predictor = self._of_folder(device)
            precision = "bf16" if device.type == "cuda" else "fp32"
        else:
            tree = self._config()
            recipe = self._recipe()
            if self.threshold != "own":
                recipe.threshold = self.threshold
            predictor = recipe.predictor(self._trained(tree).eval().to(device))
            precision = tree.get("precision", "fp32")
        predictor.precision = self.precision or precision
        predictor.resize = self.resize or predictor.resize
        predictor.non_overlapping = non_overlapping
        if not predictor.reliable_memory:
            predictor.object_chunk = self.object_chunk
        return predictor

    def _of_folder(self, device: torch.device) -> SecPredictor:
        size = self.image_size or 1024
        if self.threshold is None:
            predictor = gate_shut(self.checkpoint, image_size=size)
            predictor.sam2.to(device)
            return predictor
        model, recipe = sec_from_folder(self.checkpoint, image_size=size, threshold=self.threshold)
        return recipe.predictor(model.to(device))

    def _recipe(self) -> SecInference:
        return recipe_of(plain(load_config(str(self.model_cfg))), str(self.model_cfg))


def add_sec_arguments(parser: argparse.ArgumentParser) -> None:
    """What :func:`spec_of` reads beside the arguments of the model."""
    group = parser.add_argument_group("concept guidance (SeC)")
    group.add_argument(
        "--sec",
        action="store_true",
        help="ask a language model where the scene changes: --checkpoint is SeC-4B's folder, an "
        "export, or the weights of --model-cfg",
    )
    group.add_argument(
        "--scene-threshold",
        type=number_or_off,
        metavar="NUMBER",
        help=f"of a scene change, {THRESHOLD} where nothing else is said; -1 asks on every frame, "
        "off on none: SeC's SAM 2 and memory alone",
    )


def number_or_off(text: str) -> float | str:
    """The type of ``--scene-threshold``; its name is in argparse's complaint."""
    return text if text == "off" else float(text)


def spec_of(args: argparse.Namespace) -> ModelSpec:
    """The model that the arguments name, with guidance where they ask for it.

    Raises:
        ValueError: arguments that do not belong together.
    """
    plainly, said = model_spec(args), args.scene_threshold
    if args.sec:
        threshold = {None: "own", "off": None}.get(said, said)
        return SecSpec(**vars(plainly), threshold=threshold)
    if said is not None:
        raise ValueError("--scene-threshold is of --sec")
    return plainly
