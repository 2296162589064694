"""A checkpoint with a concept head becomes SeC's predictor, whoever wrote it.

OpenIXCLab/SeC-4B ──────────────────────► the folder's parts, asked as released ─┐
an export of ours ──────────────────────► its model, asked as it says ───────────┤
--model-cfg CONFIG.py + our checkpoint ─► the config's model, asked as it says ──┴─► SecPredictor
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from projects.common import registry
from projects.common.engine.config import load_config, plain
from projects.common.scenes import THRESHOLD
from projects.llava_sam2.datasets.concept_inputs import RELEASED_QUESTION, ConceptInputs
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.hf.grounded import grounded_parts, sa2va_from_folder
from projects.llava_sam2.hf.grounding import sort_names
from projects.llava_sam2.hf.internvl import read_config
from projects.llava_sam2.hf.shards import TensorFolder
from projects.llava_sam2.models.heads import ConceptHead
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.sec.described import build_recipe
from projects.llava_sam2.sec.predictor import SecInference, SecPredictor
from projects.sam2_video.evaluation.loading import ModelSpec, model_spec

TASK = "concept"
RELEASED_HOLES = 8  # pixels; SeC's released inference fills holes of so many at most


def sec_from_folder(
    path: str | Path,
    *,
    image_size: int = 1024,
    threshold: float | None | Literal["own"] = "own",
    dtype: str = "auto",
) -> tuple[Sa2VA, SecInference]:
    """The model of a folder, and how it tracks.

    Args:
        path: ``OpenIXCLab/SeC-4B``, or an export of ours with a concept head.
        image_size: side of SAM 2's input, where the folder does not say it.
        threshold: of the gate; own: the folder's, 0.35 where it says none. None: shut.
        dtype: of the language model; "auto": the folder's. SAM 2 is float32.

    Raises:
        FileNotFoundError, ValueError: no such folder, or one without a concept head.
    """
    check_folder(path)
    own = read_config(Path(path)).get("grounded")
    if own is None:
        model, recipe = _released(path, image_size, dtype)
    else:
        model = sa2va_from_folder(path=path, dtype=dtype, image_size=image_size)
        recipe = _exported(model, own.get("track"), str(path))
    if threshold != "own":
        recipe.threshold = threshold
    return model.eval(), recipe


def _released(path: str | Path, image_size: int, dtype: str) -> tuple[Sa2VA, SecInference]:
    parts = grounded_parts(path=path, dtype=dtype, image_size=image_size)
    head = ConceptHead(projector=parts.projector, token_attn=parts.concept)
    model = Sa2VA(mllm=parts.mllm, grounding=parts.grounding, heads={TASK: head}, trainable=())
    inputs = ConceptInputs(inputs=_plain_inputs(model), questions=[RELEASED_QUESTION], answers=[""])
    return model, SecInference(inputs=inputs, fill_hole_area=RELEASED_HOLES)


def _exported(model: Sa2VA, said: Mapping[str, Any] | None, where: str) -> SecInference:
    """As the export says; where its config said nothing, by default."""
    task, mllm = concept_task(model), model.mllm
    if said is None:
        return SecInference(inputs=ConceptInputs(inputs=_plain_inputs(model)), task=task)
    return build_recipe(
        said, task=task, tokenizer=mllm.tokenizer, template=mllm.template, where=where
    )


def _plain_inputs(model: Sa2VA) -> GroundingInputs:
    return GroundingInputs(
        tokenizer=model.mllm.tokenizer,
        template=model.mllm.template,
        tiles=SingleTile(size=model.mllm.tile_size),
        tokens_per_tile=model.mllm.image_tokens_per_tile,
        grounding_size=model.grounding.image_size,
    )


def check_folder(path: str | Path) -> None:
    """Find out from names alone whether a folder has a concept head.

    Raises:
        FileNotFoundError, ValueError: naming the folder.
    """
    read_config(Path(path))
    if not sort_names(TensorFolder(path).names()).concept:
        raise ValueError(
            f"{path} has no grounding_encoder.token_attn.*: it is no SeC, and no export of a model "
            "with a concept head"
        )


def concept_task(model: Sa2VA) -> str:
    """The task of the concept head.

    Raises:
        ValueError: the model has none.
    """
    tasks = [task for task, head in model.heads.items() if isinstance(head, ConceptHead)]
    if not tasks:
        raise ValueError(f"the model has no concept head, only {', '.join(model.heads)}")
    return tasks[0]


def find_recipe(tree: Mapping[str, Any]) -> SecInference | None:
    """How the first benchmark of a config that tracks with guidance does so; None: none does.

    Raises:
        ValueError: mistakes in it.
    """
    for name, benchmark in tree.get("benchmarks", {}).items():
        said = benchmark.get("sec")
        if isinstance(said, Mapping) and registry.resolve(said["type"]) is SecInference:
            registry.check(said, f"benchmarks.{name}.sec")
            return registry.build(said)
    return None


def recipe_of(tree: Mapping[str, Any], where: str) -> SecInference:
    """As :func:`find_recipe`.

    Raises:
        ValueError: also if there is none.
    """
    recipe = find_recipe(tree)
    if recipe is None:
        raise ValueError(
            f"{where}: no benchmark says how to track with guidance (sec=dict(type=SecInference))"
        )
    return recipe


@dataclass(frozen=True)
class SecSpec(ModelSpec):
    """What to load and how it runs, see ``ModelSpec``; ``checkpoint`` is a folder without config.

    Args:
        threshold: of the gate; None: the recipe's.
    """

    threshold: float | None = None

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
            model, recipe = sec_from_folder(self.checkpoint, image_size=self.image_size or 1024)
            precision = "bf16" if device.type == "cuda" else "fp32"
        else:
            tree = self._config()
            model, recipe = self._trained(tree).eval(), self._recipe()
            precision = tree.get("precision", "fp32")
        if self.threshold is not None:
            recipe.threshold = self.threshold
        predictor = recipe.predictor(model.to(device))
        predictor.precision = self.precision or precision
        predictor.resize = self.resize or predictor.resize
        predictor.non_overlapping = non_overlapping
        if not predictor.reliable_memory:
            predictor.object_chunk = self.object_chunk
        return predictor

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
        type=float,
        help=f"of a scene change, default {THRESHOLD}; -1 asks on every frame",
    )


def spec_of(args: argparse.Namespace) -> ModelSpec:
    """The model that the arguments name, with guidance where they ask for it.

    Raises:
        ValueError: arguments that do not belong together.
    """
    plainly = model_spec(args)
    if not args.sec:
        if args.scene_threshold is not None:
            raise ValueError("--scene-threshold is of --sec")
        return plainly
    return SecSpec(**vars(plainly), threshold=args.scene_threshold)
