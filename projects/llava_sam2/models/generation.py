"""Answers of a batch of prompts, with the [SEG] hidden states collected on the way.

Our own loop and not transformers' ``generate``: that one would keep the hidden states of all layers
and all steps to hand out a few of the last layer. A [SEG] becomes input one step after it was
chosen; its hidden state is read there, where training reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

if TYPE_CHECKING:
    from projects.llava_sam2.models.adapter import LanguageAdapter
    from projects.llava_sam2.models.visual_tokens import Grid


@dataclass
class Generated:
    token_ids: Tensor  # [n] int64, without the stop word
    text: str  # the same as text; [SEG] and the like are spelt out
    seg_hidden: Tensor  # [K, D] last-layer hidden states at the K [SEG] tokens of token_ids
    stopped: bool  # False if max_new_tokens came before a stop word


class _Answer:
    """One growing answer: its tokens, and whether a stop word closed it."""

    def __init__(self, mllm: LanguageAdapter) -> None:
        self.tokenizer = mllm.tokenizer
        self.stop_words = mllm.stop_words
        vocab = self.tokenizer.get_vocab()
        self.stop_ids = {vocab[word] for word in self.stop_words if word in vocab}
        if self.tokenizer.eos_token_id is not None:
            self.stop_ids.add(self.tokenizer.eos_token_id)
        # a template may be foreign to the tokenizer (phi3_chat on Qwen): the word is then text
        self.spelt = [word for word in self.stop_words if word not in vocab]
        self.tokens: list[int] = []
        self.hidden: list[Tensor] = []
        self.stopped = False

    def add(self, token: int) -> None:
        self.stopped = token in self.stop_ids
        if not self.stopped:
            self.tokens.append(token)
            self.stopped = any(word in self._tail() for word in self.spelt)

    def _tail(self) -> str:
        # a stop word never has more tokens than letters
        count = max(len(word) for word in self.spelt) + 1
        return self._decode(self.tokens[-count:])

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def finish(self, width: int, like: Tensor) -> Generated:
        text = self._decode(self.tokens)
        if self.stopped:
            for word in self.spelt:
                text = text.partition(word)[0]
            while self.spelt and len(self._decode(self.tokens)) > len(text):
                self.tokens.pop()
        hidden = torch.stack(self.hidden) if self.hidden else like.new_zeros(0, width)
        tokens = torch.tensor(self.tokens, dtype=torch.int64)
        return Generated(tokens, text.strip(), hidden, self.stopped)


@torch.no_grad()
def generate(
    mllm: LanguageAdapter,
    prompts: Sequence[Tensor],
    pixel_values: Tensor | None = None,
    *,
    visual: Tensor | None = None,
    grids: Sequence[Grid] | None = None,
    regions: Sequence[Tensor | None] | None = None,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> list[Generated]:
    """Continue each prompt until its template's stop word or ``max_new_tokens``.

    Args:
        mllm: in eval mode.
        prompts: token ids ``[L_i]`` from ``prompt_ids``; lengths may differ.
        pixel_values: ``[N, 3, H, H]`` tiles of all prompts, in their order.
        visual: ``[N, V, D]`` features in place of ``pixel_values``, so that prompts about one image
            can share one pass of the vision tower.
        grids: rows and columns of the tiles of ``visual``; None: they are squares.
        regions: per prompt ``[R, rows, columns]`` bool, or None; see ``LanguageAdapter.inputs``.
        temperature: 0 is greedy; otherwise tokens are sampled, and ``generator`` is required.
        top_p: sample among the likeliest tokens that together hold this probability.
        generator: on the model's device; one for all, or one for each prompt, with which an answer
            does not depend on what else is in the batch.

    Returns:
        One :class:`Generated` for each prompt. The results do not depend on how prompts are batched
        (greedy, up to rounding).
    """
    if temperature > 0 and generator is None:
        raise ValueError("sampling needs a generator: results come from explicit seeds only")
    if isinstance(generator, Sequence) and len(generator) != len(prompts):
        raise ValueError(f"{len(generator)} generators for {len(prompts)} prompts")
    ids, mask = _pad_left(prompts, mllm.device)
    inputs = mllm.inputs(ids, mask, pixel_values, visual=visual, grids=grids, regions=regions)
    cache = DynamicCache()
    answers = [_Answer(mllm) for _ in prompts]
    for step in range(max_new_tokens + 1):
        outputs = mllm.language_model(**inputs, past_key_values=cache, use_cache=True)
        hidden = outputs.last_hidden_state[:, -1]  # [B, D]
        for answer, state in zip(answers, hidden, strict=True):
            if answer.tokens and answer.tokens[-1] == mllm.seg_id and not answer.stopped:
                answer.hidden.append(state)
        if step == max_new_tokens:
            break
        tokens = _choose(mllm.logits(hidden), temperature, top_p, generator)
        for answer, token in zip(answers, tokens.tolist(), strict=True):
            if not answer.stopped:
                answer.add(token)
        last = step == max_new_tokens - 1
        if all(_closed(answer, mllm.seg_id, last) for answer in answers):
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        inputs = {
            "inputs_embeds": mllm.words(tokens.unsqueeze(1)),
            "attention_mask": mask,
            # a prompt ends in text, whose positions count on
            "position_ids": inputs["position_ids"][..., -1:] + 1,
        }
    return [answer.finish(mllm.hidden_size, hidden) for answer in answers]


def _closed(answer: _Answer, seg_id: int, last: bool) -> bool:
    """Whether nothing of it is left to compute; a [SEG] at the very end still has to be read."""
    return answer.stopped or (last and answer.tokens[-1] != seg_id)


def _choose(
    logits: Tensor,
    temperature: float,
    top_p: float,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> Tensor:
    """Logits ``[B, vocabulary]`` to token ids ``[B]``."""
    if temperature <= 0:
        return logits.argmax(-1)
    probabilities, order = (logits.float() / temperature).softmax(-1).sort(-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities  # the likeliest token is always kept
    probabilities = probabilities.masked_fill(before >= top_p, 0)
    if isinstance(generator, Sequence):
        rows = zip(probabilities, generator, strict=True)
        choice = torch.stack([torch.multinomial(row, 1, generator=own) for row, own in rows])
    else:
        choice = torch.multinomial(probabilities, 1, generator=generator)
    return order.gather(1, choice).squeeze(1)


def _pad_left(prompts: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask ``[B, L]``; on the left, so that all answers start in the same column."""
    flipped = [prompt.to(device).flip(0) for prompt in prompts]
    ids = pad_sequence(flipped, batch_first=True, padding_value=0).flip(1)
    mask = pad_sequence([torch.ones_like(p) for p in flipped], batch_first=True).flip(1)
    return ids, mask
