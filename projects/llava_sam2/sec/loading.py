"""A folder with a concept head becomes SeC's predictor, whoever wrote it.

OpenIXCLab/SeC-4B ─► its parts, asked as released ──┐
an export of ours ─► its model, asked as it says ───┼─► SecPredictor
either ───────────► its SAM 2 alone, gate shut ─────┘
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from projects.common import registry
from projects.llava_sam2.datasets.concept_inputs import RELEASED_QUESTION, ConceptInputs
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.hf.grounded import grounded_parts, read_policy, sa2va_from_folder
from projects.llava_sam2.hf.grounding import (
    grounding_config,
    load_grounding,
    load_kept_decoder,
    sort_names,
)
from projects.llava_sam2.hf.internvl import read_config
from projects.llava_sam2.hf.shards import TensorFolder
from projects.llava_sam2.models.heads import ConceptHead
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.sec.described import build_recipe
from projects.llava_sam2.sec.predictor import SecInference, SecPredictor

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


def gate_shut(path: str | Path, *, image_size: int = 1024) -> SecPredictor:
    """The predictor of a folder without its language model, of which nothing is read.

    Arguments and errors as of :func:`sec_from_folder`.
    """
    check_folder(path)
    said, source = read_config(Path(path)), TensorFolder(path)
    names = sort_names(source.names())
    sam2 = load_grounding(
        source, names, grounding_config(source, names, said, image_size=image_size)
    )
    if names.kept:
        sam2.keep_propagation_decoder()
        load_kept_decoder(source, names, sam2)
    own = said.get("grounded")
    track = {"fill_hole_area": RELEASED_HOLES} if own is None else own.get("track") or {}
    return SecPredictor(
        sam2.eval(),
        policy=None if own is None else read_policy(own.get("policy"), str(path)),
        decoder="propagation" if names.kept else "own",
        reliable_memory=track.get("reliable_memory", True),
        fill_hole_area=track.get("fill_hole_area", 0),
        resize=track.get("resize", "meta"),
    )


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
