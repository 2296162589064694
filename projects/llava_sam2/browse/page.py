"""One HTML file with samples of every dataset: no script, no network, nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from projects.common import report
from projects.common.visualise import PALETTE
from projects.llava_sam2.browse.pictures import (
    clip_html,
    frames_html,
    tiles_html,
    timeline_html,
)
from projects.llava_sam2.browse.words import answers, css, spelt_boxes, tokens_html
from projects.llava_sam2.datasets.temporal import parse_span
from projects.llava_sam2.structures import IGNORE_INDEX, GroundingSample
from projects.sam2_video.data.clip import Clip

_STYLES = (Path(report.__file__).with_name("style.css"), Path(__file__).with_name("style.css"))


def page_html(title: str, datasets: Mapping[str, Sequence[str]], notes: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        datasets: name -> samples, each by :func:`sample_html` (or :func:`problem_html`).
        notes: name -> what there is to say about a dataset, e.g. its number of items.
    """
    style = "".join(path.read_text(encoding="utf-8") for path in _STYLES)
    ids = {name: f"d{number}" for number, name in enumerate(datasets)}
    links = "".join(f'<a href="#{ids[name]}">{html.escape(name)}</a>' for name in datasets)
    sections = "".join(
        f'<section id="{ids[name]}"><h2>{html.escape(name)}</h2>'
        f'<p class="soft">{html.escape(notes[name])}</p>{"".join(samples)}</section>'
        for name, samples in datasets.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Data: {html.escape(title)}</title><style>{style}</style></head><body>"
        f"<header><div><h1>Data: {html.escape(title)}</h1>"
        '<p class="soft">What a model gets: <mark class="token">marked</mark> tokens are learned, '
        "each [SEG] has its mask's colour.</p></div></header>"
        f"<nav><div>{links}</div></nav><main>{sections}</main></body></html>\n"
    )


def sample_html(sample: Any, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """A card of one sample; a conversation wants the tokenizer of its dataset."""
    if isinstance(sample, Clip):
        return _card(sample.name, _clip_facts(sample), clip_html(sample))
    if not isinstance(sample, GroundingSample) or tokenizer is None:
        raise ValueError(f"samples of type {type(sample).__name__} cannot be shown")
    return _card(sample.name, _facts(sample), _conversation(sample, tokenizer))


def problem_html(name: str, problem: str) -> str:
    """A card of a sample that cannot be read."""
    return f'<div class="card warn"><h4>{html.escape(name)}</h4><p>{html.escape(problem)}</p></div>'


def _conversation(sample: GroundingSample, tokenizer: PreTrainedTokenizerBase) -> str:
    said = answers(sample, tokenizer)
    boxes = [spelt_boxes(answer) for answer in said]
    parts = []
    if sample.pixel_values is not None:
        size = tuple(sample.pixel_values.shape[-2:])
        parts.append(f"<h4>the language model sees {len(sample.pixel_values)} &times; {size}</h4>")
        parts.append(tiles_html(sample, boxes))
    if sample.grounding_frames is not None:
        size = tuple(sample.grounding_frames.shape[-2:])
        masks = "no masks" if sample.masks is None else f"masks {tuple(sample.masks.shape)}"
        parts.append(f"<h4>SAM 2 sees {len(sample.grounding_frames)} &times; {size}, {masks}</h4>")
        parts.append(frames_html(sample))
    if sample.features is not None:
        end = tokenizer.eos_token or ""
        spans = [_span(answer, end, len(sample.features)) for answer in said]
        parts.append(f"<h4>{len(sample.features)} frames, and where the answer lies</h4>")
        parts += [timeline_html(sample.features, span) for span in spans]
    return "".join(parts) + tokens_html(sample, tokenizer)


def _span(answer: str, end: str, frames: int) -> tuple[int, int] | None:
    """The positions of an answer, whatever ends it."""
    text = answer.replace(end, "") if end else answer
    for stop in ("<|im_end|>", "<|end|>", "<|eot_id|>", "</s>"):
        text = text.replace(stop, "")
    return parse_span(text, frames)


def _facts(sample: GroundingSample) -> str:
    learned = int((sample.labels != IGNORE_INDEX).sum())
    facts = [f"task {sample.task}", f"{len(sample.input_ids)} tokens", f"{learned} learned"]
    if sample.masks is not None:
        covered = sample.masks.float().mean(dim=(1, 2, 3)).tolist()
        facts += [f"mask {n + 1}: {100 * share:.1f}%" for n, share in enumerate(covered)]
    return _listed([*facts, *(event.message for event in sample.events)])


def _clip_facts(clip: Clip) -> str:
    facts = [f"task {clip.task}", f"frames {tuple(clip.frames.shape)}"]
    dots = "".join(
        f'<span><i class="dot" style="background:{css(PALETTE[n % len(PALETTE)])}"></i>'
        f"object {key}</span>"
        for n, key in enumerate(clip.object_ids)
    )
    return _listed([*facts, *(event.message for event in clip.events)]) + (
        f'<p class="legend">{dots}</p>'
    )


def _listed(facts: Sequence[str]) -> str:
    return f'<p class="soft">{html.escape(" · ".join(facts))}</p>'


def _card(name: str, facts: str, body: str) -> str:
    return f'<div class="card"><h3>{html.escape(name)}</h3>{facts}{body}</div>'
