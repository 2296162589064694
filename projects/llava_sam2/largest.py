"""The largest batches that a config can draw, without its files: to estimate memory.

    dataset of the config ─► TalkShape or ClipShape ─► batch: ids and masks, pixels without contents

What only the files could tell is assumed, see the numbers below; a conversation of free text is as
long as the config allows.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch

from projects.common import registry
from projects.llava_sam2.datasets.boxes import BoxDataset
from projects.llava_sam2.datasets.chat import ChatDataset
from projects.llava_sam2.datasets.concept import ConceptDataset
from projects.llava_sam2.datasets.concept_draw import ConceptDraw
from projects.llava_sam2.datasets.grounded_captions import GroundedCaptionDataset
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.regions import RegionDataset
from projects.llava_sam2.datasets.temporal import TemporalDataset
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.structures import IGNORE_INDEX, GroundingBatch
from projects.sam2_video.data.dataset import ClipDataset
from projects.sam2_video.largest import ClipShape, clip_shape

# Tokens and phrases of datasets whose texts are short; the others are as long as allowed.
TURN = 48  # tokens of a question and its answer, with the template around them
BOX = 20  # tokens of the box of a frame
PHRASES = 8  # of a grounded caption
TEMPORAL_FRAMES = 100


@dataclass(frozen=True)
class TalkShape:
    """How large a batch of conversations is; all numbers are of one sample."""

    task: str
    samples: int
    words: int  # tokens that are no visual tokens
    tiles: int = 0
    frames: int = 0  # for SAM 2
    expressions: int = 0
    mask_size: int = 0
    features: int = 0

    def __str__(self) -> str:
        seen = f"{self.features} features" if self.features else f"{self.tiles} tiles"
        masks = f", {self.expressions} masks on {self.frames} frames" if self.frames else ""
        return f"{self.task}: {self.samples} x {self.words} words, {seen}{masks}"

    def covers(self, other: Any) -> bool:
        """Whether a batch of the other shape needs no more than one of this."""
        if not isinstance(other, TalkShape) or other.task != self.task:
            return False
        pairs = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        return all(own >= theirs for own, theirs in pairs)

    def batch(self, model: Sa2VA) -> GroundingBatch:
        """The first sample is the longest, the others are padded a little."""
        mllm, number = model.mllm, self.samples
        visual = self.features or self.tiles * mllm.image_tokens_per_tile
        special = {mllm.image_id, mllm.seg_id, *mllm.region_ids}
        word = next(index for index in range(len(mllm.tokenizer)) if index not in special)
        ids = torch.full((number, visual + self.words), word)
        ids[:, :visual] = mllm.image_id
        ids[:, visual : visual + self.expressions] = mllm.seg_id
        labels = torch.where(torch.arange(ids.shape[1]) < visual, IGNORE_INDEX, ids)
        attended = torch.ones_like(ids, dtype=torch.bool)
        attended[1:, -(self.words // 8) :] = False
        labels[~attended] = IGNORE_INDEX
        return GroundingBatch(
            task=self.task,
            names=[f"sample {place}" for place in range(number)],
            input_ids=ids,
            attention_mask=attended,
            labels=labels,
            pixel_values=_pixels(number * self.tiles, mllm.tile_size),
            grounding_frames=_pixels(number * self.frames, model.grounding.image_size),
            frames_per_sample=[self.frames] * number,
            masks=[self._masks()] * number,
            features=self._features(model),
            features_per_sample=[self.features] * number,
            tiles_per_sample=[self.tiles] * number,
            regions=[None] * number,
        )

    def _masks(self) -> torch.Tensor | None:
        size = self.mask_size
        if not self.expressions:
            return None
        masks = torch.zeros(self.expressions, self.frames, size, size, dtype=torch.bool)
        masks[..., size // 4 : size // 2, size // 4 : size // 2] = True
        return masks

    def _features(self, model: Sa2VA) -> torch.Tensor | None:
        if not self.features:
            return None
        width = model.heads[self.task].projector.enter[0].in_features
        return torch.empty(self.samples * self.features, width, device="meta")


def _pixels(number: int, side: int) -> torch.Tensor | None:
    if not number:
        return None
    return torch.empty(number, 3, side, side, dtype=torch.uint8, device="meta")


def largest_shapes(
    loader: Mapping[str, Any], *, tokens: int | None = None
) -> list[TalkShape | ClipShape]:
    """The shapes of a config's batches; those that another one covers are left out.

    Args:
        loader: ``train_dataloader`` of a plain config.
        tokens: longest conversation, where the data are known to be shorter than ``max_length``.

    Raises:
        ValueError: a dataset of another type, or one that leaves no room for words.
    """
    shapes: list[TalkShape | ClipShape] = []
    for number, entry in enumerate(loader["datasets"]):
        where = f"train_dataloader.datasets[{number}]"
        size = entry.get("batch_size", loader["batch_size"])
        shapes.append(_shape(entry["dataset"], size, tokens, where))
    unique = list(dict.fromkeys(shapes))
    return [shape for shape in unique if not any(_covers(o, shape) for o in unique if o != shape)]


def _covers(one: TalkShape | ClipShape, other: TalkShape | ClipShape) -> bool:
    return isinstance(one, TalkShape) and one.covers(other)


def _shape(
    dataset: Mapping[str, Any], batch_size: int, tokens: int | None, where: str
) -> TalkShape | ClipShape:
    kind = registry.resolve(dataset["type"])
    if isinstance(kind, type) and issubclass(kind, ClipDataset):
        return clip_shape(dataset, batch_size)
    known = [base for base in _NUMBERS if isinstance(kind, type) and issubclass(kind, base)]
    if not known:
        names = ", ".join(base.__name__ for base in (ClipDataset, *_NUMBERS))
        raise ValueError(f"{where}: how large are samples of {kind}? Known are {names}")
    numbers = {"samples": batch_size, "task": _said(dataset, "task")}
    numbers |= dict(_NUMBERS[known[0]](dataset))
    inputs = dataset["inputs"]
    inputs = inputs.get("inputs", inputs)  # of ConceptInputs
    longest = min(_said(inputs, "max_length"), tokens or _said(inputs, "max_length"))
    visual = numbers.get("features") or numbers.get("tiles", 0) * inputs.get("tokens_per_tile", 0)
    room = longest - visual
    if room < TURN:
        raise ValueError(f"{where}: {visual} visual tokens leave no room for words in {longest}")
    return TalkShape(**{**numbers, "words": min(numbers.get("words", room), room)})


def _grounding(dataset: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    number = _said(dataset, "expressions")
    yield from _pictures(dataset)
    yield "frames", _video_frames(dataset) or 1
    yield "expressions", number
    yield "mask_size", dataset["mask_size"]
    yield "words", TURN * number


def _captions(dataset: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield from _pictures(dataset)
    yield "frames", 1
    yield "expressions", PHRASES
    yield "mask_size", dataset["mask_size"]
    yield "words", TURN * PHRASES


def _boxes(dataset: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield from _pictures(dataset)
    each = TURN + BOX * (_video_frames(dataset) or 1)
    yield "words", each * _said(dataset, "expressions")


def _concepts(dataset: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    draw = dataset.get("frames") or {"type": ConceptDraw}
    yield "tiles", _said(draw, "max_references") + 1
    yield "frames", 1
    yield "expressions", 1
    yield "mask_size", dataset["mask_size"]
    yield "words", TURN


def _temporal(dataset: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    frames = dataset["inputs"].get("frames") or {}
    yield "features", frames.get("num", TEMPORAL_FRAMES)
    yield "words", 2 * TURN


def _pictures(dataset: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Tiles of an image, or one of each frame of a video; words as many as there is room for."""
    tiles = registry.build(dataset["inputs"]["tiles"])
    frames = _video_frames(dataset)
    yield "tiles", tiles.most if frames is None else frames * tiles.most_frame


def _video_frames(dataset: Mapping[str, Any]) -> int | None:
    """None for images, of which a config does not say how many frames are drawn."""
    frames = dataset.get("frames")
    return None if frames is None else _said(frames, "num")


def _said(config: Mapping[str, Any], key: str) -> Any:
    """A value of a config, or its default."""
    if key in config:
        return config[key]
    return inspect.signature(registry.resolve(config["type"])).parameters[key].default


_NUMBERS = {
    GroundingDataset: _grounding,
    GroundedCaptionDataset: _captions,
    BoxDataset: _boxes,
    ConceptDataset: _concepts,
    TemporalDataset: _temporal,
    ChatDataset: _pictures,
    RegionDataset: _pictures,
}
