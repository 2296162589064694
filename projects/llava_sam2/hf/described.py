"""Heads and questions in the words of ``config.json``, and back.

A folder may say which of these parts it has and how large they are; it can never name code of its
own. Parts that only train (losses, prompt simulators) are not described.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from projects.llava_sam2.datasets import frame_samplers, pixels
from projects.llava_sam2.datasets.frame_samplers import FrameSampler
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.native import NativeResolution
from projects.llava_sam2.models.heads import (
    BoxHead,
    CategoryHead,
    ChatHead,
    ConceptHead,
    SegmentHead,
    seg_projector,
)
from projects.llava_sam2.models.heads.temporal import FeatureProjector, TemporalHead

Said = dict[str, Any]


def _projector(head: SegmentHead | ConceptHead) -> Said:
    first, *_, last = (part for part in head.text_hidden_fcs if isinstance(part, nn.Linear))
    return {"hidden": first.in_features, "out": last.out_features}


def _temporal(head: TemporalHead) -> Said:
    projector = head.projector
    return {
        "features": projector.enter[0].in_features,
        "hidden": projector.enter[0].out_features,
        "expanded": projector.leave[0].out_features,
        "blocks": len(projector.blocks),
        "out": projector.out,
        "positions": projector.positions,
    }


HEADS: dict[str, tuple[type[nn.Module], Callable[[Any], Said], Callable[..., nn.Module]]] = {
    "segment": (
        SegmentHead,
        _projector,
        lambda **sizes: SegmentHead(projector=seg_projector(**sizes)),
    ),
    "concept": (  # its token_attn is of the shape of SAM 2's memory attention
        ConceptHead,
        _projector,
        lambda **sizes: ConceptHead(projector=seg_projector(**sizes)),
    ),
    "temporal": (
        TemporalHead,
        _temporal,
        lambda **sizes: TemporalHead(projector=FeatureProjector(**sizes)),
    ),
    "box": (BoxHead, lambda head: {}, BoxHead),
    "chat": (ChatHead, lambda head: {}, ChatHead),
}
ONLY_TRAIN = (CategoryHead,)  # heads with weights that answer no question
TILES = {
    "SingleTile": (pixels.SingleTile, ("size",)),
    "DynamicTiles": (pixels.DynamicTiles, ("size", "min_tiles", "max_tiles", "thumbnail")),
    "NativeResolution": (
        NativeResolution,
        ("size", "token", "min_tokens", "max_tokens", "frame_tokens"),
    ),
}
FRAMES = {
    name: getattr(frame_samplers, name)
    for name in ("UniformFrames", "RandomFrames", "ContiguousFrames", "FirstFrames")
}


def describe_heads(heads: Mapping[str, nn.Module]) -> tuple[dict[str, Said], list[str]]:
    """What to build again, by task, and notes on heads that only train.

    Raises:
        ValueError: a head with parameters that has no description.
    """
    said, notes = {}, []
    for task, head in heads.items():
        kinds = [name for name, (cls, _, _) in HEADS.items() if type(head) is cls]
        if kinds:
            said[task] = {"kind": kinds[0], **HEADS[kinds[0]][1](head)}
        elif any(True for _ in head.parameters()) and not isinstance(head, ONLY_TRAIN):
            raise ValueError(
                f"the head {task!r} ({type(head).__name__}) has weights and no description: add "
                "its class to HEADS in projects/llava_sam2/hf/described.py"
            )
        else:
            notes.append(f"the head {task!r} only trains: it is left out")
    return said, notes


def build_heads(said: Mapping[str, Said], *, where: str) -> dict[str, nn.Module]:
    """The heads of a ``config.json``, with random weights.

    Raises:
        ValueError: a kind or size that does not exist.
    """
    heads = {}
    for task, entry in said.items():
        sizes = dict(entry)
        kind = sizes.pop("kind", None)
        if kind not in HEADS:
            raise ValueError(f"{where}: no head of the kind {kind!r}; known are {', '.join(HEADS)}")
        try:
            heads[task] = HEADS[kind][2](**sizes)
        except TypeError as error:
            raise ValueError(f"{where}: head {task!r}: {error}") from error
    return heads


def describe_inputs(inputs: GroundingInputs) -> Said:
    """How a model was trained to see and to be asked.

    Raises:
        ValueError: tiles that have no description.
    """
    kind = type(inputs.tiles).__name__
    if kind not in TILES:
        raise ValueError(
            f"tiles of the kind {kind} have no description: add them to TILES in "
            "projects/llava_sam2/hf/described.py"
        )
    return {
        "tiles": {"kind": kind} | {key: getattr(inputs.tiles, key) for key in TILES[kind][1]},
        "tokens_per_tile": inputs.tokens_per_tile,
        "grounding_size": inputs.grounding_size,
        "max_length": inputs.max_length,
        "system": inputs.system,
    }


def tile_settings(ask: Mapping[str, Any] | None) -> Said:
    """How images are tiled, in the keys of InternVL's own ``config.json``.

    Args:
        ask: of an export; None: as InternVL2.5 was released.
    """
    tiles = {} if ask is None else ask["inputs"]["tiles"]
    dynamic = tiles.get("kind", "DynamicTiles") == "DynamicTiles"
    return {
        "dynamic_image_size": dynamic,
        "use_thumbnail": dynamic and tiles.get("thumbnail", True),
        "min_dynamic_patch": tiles.get("min_tiles", 1),
        "max_dynamic_patch": tiles.get("max_tiles", 12) if dynamic else 1,
        "pad2square": False,
    }


def build_inputs(
    said: Mapping[str, Any], *, tokenizer: PreTrainedTokenizerBase, template: str, where: str
) -> GroundingInputs:
    """The inputs of a ``config.json``.

    Raises:
        ValueError: a kind or key that does not exist.
    """
    rest = dict(said)
    tiles = dict(rest.pop("tiles"))
    kind = tiles.pop("kind", None)
    if kind not in TILES:
        raise ValueError(f"{where}: no tiles of the kind {kind!r}; known are {', '.join(TILES)}")
    try:
        built = TILES[kind][0](**tiles)
        return GroundingInputs(tokenizer=tokenizer, template=template, tiles=built, **rest)
    except TypeError as error:
        raise ValueError(f"{where}: inputs: {error}") from error


def describe_frames(frames: FrameSampler | None) -> Said | None:
    """The frame sampler; None for the predictor's own.

    Raises:
        ValueError: one that has no description.
    """
    if frames is None:
        return None
    kind = type(frames).__name__
    if kind not in FRAMES:
        raise ValueError(f"frames of the kind {kind} have no description in FRAMES")
    return {"kind": kind, "num": frames.num}


def build_frames(said: Mapping[str, Any] | None, *, where: str) -> FrameSampler | None:
    """The frame sampler of a ``config.json``.

    Raises:
        ValueError: a kind that does not exist.
    """
    if said is None:
        return None
    if said.get("kind") not in FRAMES:
        raise ValueError(f"{where}: no frames of the kind {said.get('kind')!r}")
    return FRAMES[said["kind"]](num=said["num"])
