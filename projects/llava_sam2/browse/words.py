"""The tokens of a sample as HTML: what is learned is marked, runs of visual tokens are counted."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from projects.common.conversation import BOX_START, NEXT_FRAME, SEG
from projects.common.visualise import PALETTE, Colour
from projects.llava_sam2.datasets.box_text import Box, parse_boxes
from projects.llava_sam2.structures import IGNORE_INDEX, GroundingSample

LONG_RUN = 4  # the same token oftener than that in a row is counted, not repeated


def tokens_html(sample: GroundingSample, tokenizer: PreTrainedTokenizerBase) -> str:
    """Every token a ``<span>``, with its id on hovering.

    Learned ones are ``<mark>``; the n-th [SEG] has the colour of the n-th expression's mask.
    """
    ids, labels = sample.input_ids.tolist(), sample.labels.tolist()
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    seg = tokenizer.get_vocab().get(SEG)
    parts, segs = [], 0
    for token, learned, count in _runs(ids, labels):
        text = html.escape(tokenizer.decode([token], skip_special_tokens=False))
        classes = ["token"] + ["special"] * (token in special)
        style = ""
        if token == seg:
            style = f' style="background:{css(PALETTE[segs % len(PALETTE)])}"'
            segs += count
        if count > 1:
            text += f" &times; {count}"
        tag = "mark" if learned else "span"
        shown = text.replace("\n", "&crarr;\n") or "&empty;"
        parts.append(f'<{tag} class="{" ".join(classes)}" title="{token}"{style}>{shown}</{tag}>')
    return f'<div class="words">{"".join(parts)}</div>'


def css(colour: Colour) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def answers(sample: GroundingSample, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each stretch that is learned."""
    ids, learned = sample.input_ids.tolist(), (sample.labels != IGNORE_INDEX).tolist()
    found = []
    for is_learned, group in groupby(zip(ids, learned, strict=True), key=lambda pair: pair[1]):
        if is_learned:
            found.append(tokenizer.decode([token for token, _ in group]))
    return found


def spelt_boxes(text: str) -> list[list[Box]]:
    """Boxes of an answer, a list for each frame that it tells of; [] where it tells of none."""
    if BOX_START not in text:
        return []
    frames = parse_boxes(text, text.count(NEXT_FRAME) + 1).frames
    return [frame or [] for frame in frames]


def _runs(ids: Sequence[int], labels: Sequence[int]) -> Iterator[tuple[int, bool, int]]:
    """(token, whether it is learned, how often): long runs once, all else one by one."""
    learned = [label != IGNORE_INDEX for label in labels]
    for (token, is_learned), group in groupby(zip(ids, learned, strict=True)):
        count = sum(1 for _ in group)
        for times in [count] if count > LONG_RUN else [1] * count:
            yield token, is_learned, times
