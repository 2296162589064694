"""What a checkpoint folder says of its words: tokenizer, special tokens, chat template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import InternVLConfig, PreTrainedTokenizerBase

from projects.common.conversation import (
    GROUNDING_TOKENS,
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    SEG,
    TEMPLATES,
    add_tokens,
    token_id,
)
from projects.common.tokenizer_files import has_tokenizer, read_tokenizer
from projects.llava_sam2.hf.architectures import SA2VA, SEC

_CHATML = {"llama": "internlm2_chat"}  # all others among InternVL's language models are Qwen's


def default_template(said: Mapping[str, Any], config: InternVLConfig, *, where: str) -> str:
    """The chat template that a ``config.json`` names, in our spelling.

    Raises:
        ValueError: it names one that we do not have.
    """
    named = str(said.get("grounded", said).get("template", "chatml")).replace("-", "_")
    if named in TEMPLATES:
        return named
    if named in ("internvl2_5", "chatml"):  # ChatML, whichever language model
        return _CHATML.get(config.text_config.model_type, "qwen_chat")
    raise ValueError(
        f"{where}: config.json names the chat template {named!r}, which is not known; give one of "
        f"{', '.join(sorted(TEMPLATES))} as template="
    )


def trained_tokens(said: Mapping[str, Any]) -> tuple[str, ...]:
    """The special tokens that the weights beside a ``config.json`` were trained with."""
    pictures = (IMAGE_START, IMAGE_CONTEXT, IMAGE_END)
    named = set(said.get("architectures") or ()) | {said.get("model_type")}
    if "grounded" in said or named & SEC:  # SeC-4B: InternVL2.5-4B's 151,674 rows and this one
        return (*pictures, SEG)
    return (*pictures, *GROUNDING_TOKENS) if named & SA2VA else pictures


def own_tokenizer(folder: Path, said: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, with the grounding tokens; of an export of ours, just as it is.

    Raises:
        ValueError: it lacks tokens that the folder's weights were trained with.
    """
    tokenizer = read_tokenizer(folder)
    known = tokenizer.get_vocab()
    lacking = [token for token in trained_tokens(said) if token not in known]
    if lacking:
        raise ValueError(
            f"{folder}: the tokenizer lacks {', '.join(lacking)}, with which its weights were "
            "trained: files are missing (added_tokens.json?), or belong to another model"
        )
    if "grounded" not in said:
        add_tokens(tokenizer, GROUNDING_TOKENS)
    return tokenizer


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    config: InternVLConfig,
    said: Mapping[str, Any],
    folder: Path,
) -> None:
    """Tokens that the weights were trained with must have the rows that the folder's files say.

    Args:
        folder: of the weights; its tokenizer files, if it has any, are compared.

    Raises:
        ValueError: they have none or others, so that the tokenizer is not that of the weights.
    """
    if has_tokenizer(folder):
        _check_same(tokenizer, own_tokenizer(folder, said), trained_tokens(said), folder)
    rows = config.text_config.vocab_size
    lacking = [token for token in trained_tokens(said) if token_id(tokenizer, token) >= rows]
    if lacking:
        raise ValueError(
            f"{folder}: the weights have {rows} embeddings, and the tokenizer "
            f"{tokenizer.name_or_path!r} gives {', '.join(lacking)} ids beyond them: its files "
            "lack these tokens, or belong to another model"
        )


def _check_same(
    given: PreTrainedTokenizerBase,
    own: PreTrainedTokenizerBase,
    trained: tuple[str, ...],
    folder: Path,
) -> None:
    theirs, ours = given.get_vocab(), own.get_vocab()
    differ = [token for token in trained if theirs.get(token) != ours[token]]
    if differ:
        raise ValueError(
            f"{folder}: its own tokenizer calls {', '.join(f'{t} {ours[t]}' for t in differ)}, "
            f"the one that is given ({given.name_or_path!r}) otherwise: load it from this folder"
        )
