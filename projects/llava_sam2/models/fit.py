"""Whether a dataset shows and says things the way a model takes them, found from settings alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from projects.llava_sam2.models.adapter import LanguageAdapter
from projects.sam2_video.modeling import Sam2

SHOWN = 3  # words of a vocabulary that a message names


def misfits(inputs: Any, mllm: LanguageAdapter, grounding: Sam2) -> Iterator[str]:
    """What differs between a dataset's inputs and the model.

    Args:
        inputs: with ``tokenizer`` and ``template``; where pictures are shown, with ``tiles``,
            ``tokens_per_tile`` and ``grounding_size`` too.
    """
    if inputs.template != mllm.template:
        yield f"template {inputs.template!r}, the model's is {mllm.template!r}"
    yield from _other_words(inputs.tokenizer, mllm.tokenizer)
    if not hasattr(inputs, "tiles"):
        return
    pairs = (
        ("tiles of size", inputs.tiles.size, mllm.tile_size),
        ("tokens_per_tile", inputs.tokens_per_tile, mllm.image_tokens_per_tile),
        ("grounding_size", inputs.grounding_size, grounding.image_size),
    )
    for name, theirs, ours in pairs:
        if theirs != ours:
            yield f"{name} {theirs}, the model takes {ours}"


def _other_words(theirs: PreTrainedTokenizerBase, ours: PreTrainedTokenizerBase) -> Iterator[str]:
    """Words that the model knows by another id, or not at all."""
    if theirs is ours:
        return
    known = ours.get_vocab()
    differ = [word for word, number in theirs.get_vocab().items() if known.get(word) != number]
    if differ:
        yield (
            f"the tokenizer gives {len(differ)} words other ids than the model's, like "
            f"{', '.join(sorted(differ)[:SHOWN])}: load both from the same folder, by the same "
            "function"
        )
