"""How a conversation becomes ``input_ids`` and ``labels``.

    bos | system | user turn with <img> <IMG_CONTEXT>*n </img> | answer + end | user turn | ...
     -      -                      -                              supervised        -

Only answers and their end token are supervised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from projects.common.conversation.templates import ChatTemplate, chat_template
from projects.common.conversation.tokens import (
    IMAGE_PLACEHOLDER,
    REGION_END,
    REGION_PLACEHOLDER,
    REGION_START,
    SEG,
    token_id,
)

IGNORE_INDEX = -100
_PLACEHOLDERS = re.compile(f"({IMAGE_PLACEHOLDER}|{REGION_PLACEHOLDER})")


class Encoded(NamedTuple):
    input_ids: Tensor  # [L] int64
    labels: Tensor  # [L] int64, -100 where not supervised


def check_template(tokenizer: PreTrainedTokenizerBase, name: str) -> ChatTemplate:
    """The template called ``name``, if this tokenizer can spell the end of its answers.

    Raises:
        ValueError: for an unknown name, or an end that would become the unknown token (a model
            could then not be stopped).
    """
    template = chat_template(name)
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in _encode_text(tokenizer, template.end):
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} cannot spell {template.end!r}, which ends "
            f"an answer in the template {name!r}: choose another template or tokenizer"
        )
    return template


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[tuple[str, str]],
    template: str,
    *,
    image_tokens: int = 0,
    image_ends: bool = True,
    region_tokens: Sequence[int] = (),
    system: str | None = None,
    max_length: int | None = None,
    name: str = "conversation",
) -> Encoded:
    """Token ids of a whole conversation, answers supervised.

    Args:
        turns: (question, answer) pairs. Each ``<image>`` in a question becomes
            ``<img>``, ``image_tokens`` times ``<IMG_CONTEXT>``, ``</img>``.
        template: a name in :data:`TEMPLATES`.
        image_tokens: visual tokens of one ``<image>`` (tiles times tokens a tile).
        image_ends: whether ``<img>`` and ``</img>`` stand around them. They do around pictures; a
            row of frame features has no such ends.
        region_tokens: visual tokens of each ``<region>`` of the questions, in order: ``<vp>``, so
            many ``<IMG_CONTEXT>``, ``</vp>``.
        system: system text; None means the template's default.
        max_length: longer conversations are cut at the end. A cut is allowed only through plain
            text: one that would lose image tokens or touch an answer with [SEG] is an error.
        name: of the sample, for errors.

    Raises:
        ValueError: for no turns, placeholders that do not fit ``image_tokens`` or
            ``region_tokens``, or a cut that the sample does not survive.
    """
    if not turns:
        raise ValueError(f"{name}: a conversation needs at least one turn")
    chat = chat_template(template)
    visual = _Visual(tokenizer, chat, image_tokens, image_ends, region_tokens)
    visual.check([question for question, _ in turns], name)
    ids = _opening(tokenizer, chat, system)
    labels: list[int] = []
    seg = tokenizer.get_vocab().get(SEG)
    whole: list[tuple[int, str]] = []  # (end, what) of stretches that must survive a cut
    for number, (question, answer) in enumerate(turns):
        if IMAGE_PLACEHOLDER in answer:
            raise ValueError(f"{name}: answer {number} contains {IMAGE_PLACEHOLDER}")
        ids += _encode_user(tokenizer, chat, question, visual, name)
        if _PLACEHOLDERS.search(question):
            whole.append((len(ids), f"the images of turn {number}"))
        answer_ids = _encode_text(tokenizer, answer + chat.end)
        labels += [IGNORE_INDEX] * (len(ids) - len(labels)) + answer_ids
        ids += answer_ids
        if seg is not None and seg in answer_ids:
            whole.append((len(ids), f"answer {number}, which contains {SEG}"))
        ids += _encode_text(tokenizer, chat.separator)
    labels += [IGNORE_INDEX] * (len(ids) - len(labels))
    if max_length is not None and len(ids) > max_length:
        _check_cut(labels, whole, max_length, len(ids), name)
        ids, labels = ids[:max_length], labels[:max_length]
    return Encoded(torch.tensor(ids), torch.tensor(labels))


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    template: str,
    *,
    image_tokens: int = 0,
    image_ends: bool = True,
    region_tokens: Sequence[int] = (),
    system: str | None = None,
    history: Sequence[tuple[str, str]] = (),
    name: str = "prompt",
) -> Tensor:
    """Token ids ``[L]`` up to where the model answers: the prefix of the training sequence."""
    chat = chat_template(template)
    visual = _Visual(tokenizer, chat, image_tokens, image_ends, region_tokens)
    visual.check([*(past for past, _ in history), question], name)
    ids = _opening(tokenizer, chat, system)
    for past_question, answer in history:
        ids += _encode_user(tokenizer, chat, past_question, visual, name)
        ids += _encode_text(tokenizer, answer + chat.end)
        ids += _encode_text(tokenizer, chat.separator)
    ids += _encode_user(tokenizer, chat, question, visual, name)
    return torch.tensor(ids)


class _Visual:
    """The ids that stand for pictures and regions in one conversation.

    Sa2VA's visual prompt: a region's own visual tokens, once more, between ``<vp>`` and ``</vp>``.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat: ChatTemplate,
        image_tokens: int,
        image_ends: bool,
        region_tokens: Sequence[int],
    ) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.image_tokens = image_tokens
        self.image_ends = image_ends
        self.region_tokens = list(region_tokens)
        self._coming = iter(self.region_tokens)

    def check(self, questions: Sequence[str], name: str) -> None:
        """Raise ValueError where placeholders and tokens do not line up."""
        images = sum(question.count(IMAGE_PLACEHOLDER) for question in questions)
        if (images > 0) != (self.image_tokens > 0):
            raise ValueError(
                f"{name}: {images} {IMAGE_PLACEHOLDER} in the questions, but {self.image_tokens} "
                "visual tokens for each"
            )
        regions = sum(question.count(REGION_PLACEHOLDER) for question in questions)
        if regions != len(self.region_tokens):
            raise ValueError(
                f"{name}: {regions} {REGION_PLACEHOLDER} in the questions, but visual tokens of "
                f"{len(self.region_tokens)} regions"
            )

    def ids(self, placeholder: str) -> list[int]:
        """What a placeholder becomes; regions are taken in their order."""
        if placeholder == REGION_PLACEHOLDER:
            return self._between(REGION_START, next(self._coming), REGION_END)
        if self.image_ends:
            return self._between(self.chat.image_start, self.image_tokens, self.chat.image_end)
        return [token_id(self.tokenizer, self.chat.image_context)] * self.image_tokens

    def _between(self, start: str, count: int, end: str) -> list[int]:
        inner = [token_id(self.tokenizer, self.chat.image_context)] * count
        return [token_id(self.tokenizer, start), *inner, token_id(self.tokenizer, end)]


def _opening(
    tokenizer: PreTrainedTokenizerBase, chat: ChatTemplate, system: str | None
) -> list[int]:
    """The tokenizer's own start token, where it has one, and the system part."""
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    system = chat.default_system if system is None else system
    if system is not None:
        ids += _encode_text(tokenizer, chat.system.format(system=system))
    return ids


def _encode_user(
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatTemplate,
    question: str,
    visual: _Visual,
    name: str,
) -> list[int]:
    if chat.image_context in question:
        raise ValueError(
            f"{name}: the question spells {chat.image_context}; write {IMAGE_PLACEHOLDER}"
        )
    ids: list[int] = []
    # replace, not format: questions may contain braces
    for part in _PLACEHOLDERS.split(chat.user.replace("{input}", question)):
        is_text = _PLACEHOLDERS.fullmatch(part) is None
        ids += _encode_text(tokenizer, part) if is_text else visual.ids(part)
    return ids


def _encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _check_cut(
    labels: Sequence[int],
    whole: Sequence[tuple[int, str]],
    max_length: int,
    length: int,
    name: str,
) -> None:
    where = f"{name}: {length} tokens, but at most {max_length} are allowed"
    mend = "raise max_length, or use fewer expressions, tiles or frames"
    for end, what in whole:
        if end > max_length:
            raise ValueError(f"{where}; the cut would touch {what}: {mend}")
    if all(label == IGNORE_INDEX for label in labels[:max_length]):
        raise ValueError(f"{where}; nothing supervised is left before the cut: {mend}")
