"""The special tokens of the project, and tokenizers that have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from projects.common.tokenizer_files import read_tokenizer

IMAGE_PLACEHOLDER = "<image>"  # in questions; never reaches the tokenizer
REGION_PLACEHOLDER = "<region>"  # the same for a region that the question points at
IMAGE_START, IMAGE_CONTEXT, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
SEG = "[SEG]"
PHRASE_START, PHRASE_END = "<p>", "</p>"  # around a phrase that is grounded by the [SEG] behind it
REGION_START, REGION_END = "<vp>", "</vp>"  # around the visual tokens of a region
GROUNDING_TOKENS = (SEG, PHRASE_START, PHRASE_END, REGION_START, REGION_END)  # in Sa2VA's order
SPATIAL, TEMPORAL = "<SPATIAL>", "<TEMPORAL>"  # say which kind of answer a question wants
FRAME_DIGITS = tuple(f"<frame_{digit}>" for digit in range(10))  # positions of frames, in answers
BOX_START, BOX_END = "<box>", "</box>"  # InternVL has them; another tokenizer may not
BOX_SEPARATOR, NO_BOX, NEXT_FRAME, SINGLE_IMAGE = "<box_sep>", "<no_box>", "<next>", "<single_img>"
SHARED_TOKENS = (
    *GROUNDING_TOKENS,
    *(SPATIAL, TEMPORAL, BOX_SEPARATOR, NO_BOX, NEXT_FRAME, SINGLE_IMAGE),
    *FRAME_DIGITS,
    *(BOX_START, BOX_END),
)


def load_tokenizer(
    path: str | Path, *, special_tokens: Sequence[str] = GROUNDING_TOKENS
) -> PreTrainedTokenizerBase:
    """Read a tokenizer folder (see :func:`read_tokenizer`) and add what the project needs to it.

    The image tokens come first, then ``special_tokens``, so that a model and a dataset that call
    this with the same arguments agree on every id. Tokens that are there keep their ids.
    """
    tokenizer = read_tokenizer(path)
    add_tokens(tokenizer, special_tokens)
    return tokenizer


def add_tokens(tokenizer: PreTrainedTokenizerBase, special_tokens: Sequence[str]) -> None:
    """Add the image tokens, then ``special_tokens``, where they are not there."""
    tokens = [IMAGE_START, IMAGE_CONTEXT, IMAGE_END, *special_tokens]
    known = tokenizer.get_vocab()
    missing = [token for token in tokens if token not in known]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": missing}, replace_extra_special_tokens=False
    )


def load_shared_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """:func:`load_tokenizer` for models that answer with masks, boxes and times alike."""
    return load_tokenizer(path, special_tokens=SHARED_TOKENS)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one token.

    Raises:
        ValueError: if the tokenizer does not hold it as one token.
    """
    index = tokenizer.get_vocab().get(token)
    if index is None:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no token {token!r}; load it with "
            "projects.common.conversation.load_tokenizer, which adds it"
        )
    return index
