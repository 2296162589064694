"""A word-level tokenizer that knows every word of the toy world, in the transformers format."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from projects.toy_world import events, phrases

PAD, UNKNOWN, END = "<pad>", "<unk>", "<|im_end|>"
SPECIAL_TOKENS = (
    PAD,
    UNKNOWN,
    "<|im_start|>",
    END,
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
)
# What the conversations around the expressions can say: instructions, answers, descriptions.
_CONVERSATION = """
    a an and are assistant behind can describe do does find frame frames happen happens how i
    image in is it many me moves moving no not now object objects of on one or please scene
    second seconds see segment show still sure system that the there these they this time to
    user video what when where which with yes you
"""
_PUNCTUATION = ".,?!:;'-<>/"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: lower case, split at spaces and punctuation, digits one by one.

    ``[SEG]`` is not in it: models add the tokens that they need.
    """
    said = phrases.vocabulary() | events.vocabulary() | set(_CONVERSATION.split())
    words = sorted({*said, *_PUNCTUATION, *"0123456789"})
    ids = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[
            token for token in SPECIAL_TOKENS if token not in (PAD, UNKNOWN, END)
        ],
    )


def write_tokenizer(folder: Path) -> None:
    """Save the tokenizer so that ``AutoTokenizer.from_pretrained(folder)`` finds it."""
    build_tokenizer().save_pretrained(folder)
