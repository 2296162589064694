"""A tokenizer that spells everything in bytes, for models that are built without a folder."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from projects.common.conversation import SHARED_TOKENS, TEMPLATES, add_tokens

END = "<|endoftext|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """256 byte tokens, the stop words and picture tokens of the templates, and all tokens of the
    project.

    It spells any text (with more tokens than a trained one), so that a model with random weights
    can be built, measured and asked; its ids are those of no released model.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    templates = TEMPLATES.values()
    stops = {word: None for template in templates for word in template.stop_words}
    places = [word for t in templates for word in (t.image_start, t.image_context, t.image_end)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token=END,
        pad_token=END,
        extra_special_tokens=["<|im_start|>", *(word for word in stops if word != END)],
        clean_up_tokenization_spaces=False,
    )
    add_tokens(tokenizer, [*SHARED_TOKENS, *dict.fromkeys(places)])
    return tokenizer
