"""The tokenizer knows every word, and loads in the transformers way."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from projects.toy_world.phrases import vocabulary
from projects.toy_world.tokenizer import SPECIAL_TOKENS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_words_of_the_world_and_of_conversations_are_known(tokenizer) -> None:
    said = """Please segment the largest red circle. Sure, it is a star? yes; no.
    Where in the image / video is it: find and describe what there are. frame 307 second 12.5
    system user assistant moving - the triangles' behind both shapes passed by one!"""
    text = " ".join(sorted(vocabulary())) + " " + said
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.tokenize("Frame 307: The RED circle.") == [
        *("frame", "3", "0", "7", ":", "the", "red", "circle", ".")
    ]
    assert tokenizer.tokenize("elephant") == ["<unk>"]


def test_special_tokens_are_single_and_seg_is_left_to_the_model(tokenizer) -> None:
    for token in SPECIAL_TOKENS:
        assert tokenizer.tokenize(f"red{token}circle") == ["red", token, "circle"]
    assert tokenizer.pad_token == "<pad>" and tokenizer.eos_token == "<|im_end|>"
    assert "[SEG]" not in tokenizer.get_vocab()
    assert tokenizer.add_tokens(["[SEG]"], special_tokens=True) == 1
    assert tokenizer.tokenize("it is [SEG] red.") == ["it", "is", "[SEG]", "red", "."]


def test_decoding_gives_the_words_back(tokenizer) -> None:
    ids = tokenizer("the purple star passed by the blue star")["input_ids"]
    assert tokenizer.decode(ids) == "the purple star passed by the blue star"
