"""Chat templates: token by token what the model reads and what it is supervised on."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from projects.common import conversation as chat

WORDS = "segment the red circle . sure it is here user assistant system be brief".split()
CHAT = ["<|im_start|>", "<|im_end|>"]


@pytest.fixture
def tokenizer_folder(tmp_path):
    vocab = {word: i for i, word in enumerate(["<pad>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", extra_special_tokens=CHAT
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def tokenizer(tokenizer_folder):
    return chat.load_tokenizer(tokenizer_folder)


def spell(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens([int(i) for i in ids])


def supervised(tokenizer, encoded):
    return [
        word
        for word, label in zip(
            spell(tokenizer, encoded.input_ids), encoded.labels.tolist(), strict=True
        )
        if label != -100
    ]


def test_load_tokenizer_adds_each_token_once_and_in_order(tokenizer_folder, tokenizer):
    again = chat.load_tokenizer(tokenizer_folder)
    added = [chat.IMAGE_START, chat.IMAGE_CONTEXT, chat.IMAGE_END, *chat.GROUNDING_TOKENS]
    ids = [chat.token_id(tokenizer, token) for token in added]
    assert ids == list(range(len(WORDS) + 4, len(WORDS) + 4 + len(added)))
    assert ids == [chat.token_id(again, token) for token in added]
    assert spell(tokenizer, tokenizer("it is [SEG] .")["input_ids"]) == ["it", "is", "[SEG]", "."]
    # tokens that are there already keep their ids
    tokenizer.save_pretrained(tokenizer_folder)
    assert len(chat.load_tokenizer(tokenizer_folder)) == len(tokenizer)
    # and the chat tokens of the folder are still special
    assert spell(tokenizer, tokenizer("<|im_end|>")["input_ids"]) == ["<|im_end|>"]


def test_one_turn_token_by_token(tokenizer):
    encoded = chat.encode_conversation(
        tokenizer,
        [("<image> segment the red circle .", "sure it is [SEG] red circle .")],
        "qwen_chat",
        image_tokens=3,
    )
    tokens = spell(tokenizer, encoded.input_ids)
    prompt = (
        "<|im_start|> user <img> <IMG_CONTEXT> <IMG_CONTEXT> <IMG_CONTEXT> </img> "
        "segment the red circle . <|im_end|> <|im_start|> assistant"
    ).split()
    answer = "sure it is [SEG] red circle . <|im_end|>".split()
    assert tokens == prompt + answer
    labels = encoded.labels.tolist()
    assert labels[: len(prompt)] == [-100] * len(prompt)
    assert labels[len(prompt) :] == encoded.input_ids.tolist()[len(prompt) :]


def test_several_turns_supervise_every_answer_and_nothing_else(tokenizer):
    turns = [("<image> segment the circle .", "it is [SEG] ."), ("red .", "here [SEG]")]
    encoded = chat.encode_conversation(
        tokenizer, turns, "internlm2_chat", image_tokens=1, system="be brief"
    )
    opening = "<|im_start|> system be brief <|im_end|>".split()
    assert spell(tokenizer, encoded.input_ids)[: len(opening)] == opening
    answers = "it is [SEG] . <|im_end|> here [SEG] <|im_end|>".split()
    assert supervised(tokenizer, encoded) == answers


@pytest.mark.parametrize("history", [(), (("the circle .", "it is [SEG]"),)])
def test_prompt_is_the_prefix_of_the_training_sequence(tokenizer, history):
    question, answer = "<image> segment the red circle .", "it is [SEG]"
    prompt = chat.prompt_ids(
        tokenizer, question, "qwen_chat", image_tokens=2, system="be brief", history=history
    )
    whole = chat.encode_conversation(
        tokenizer, [*history, (question, answer)], "qwen_chat", image_tokens=2, system="be brief"
    )
    assert whole.input_ids[: len(prompt)].tolist() == prompt.tolist()
    assert spell(tokenizer, whole.input_ids[len(prompt) :]) == "it is [SEG] <|im_end|>".split()


class Letters:
    """A tokenizer of characters, to see every character that a template writes."""

    def __init__(self, bos=None):
        self.bos_token_id = bos
        self.name_or_path = "letters"

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}

    def get_vocab(self):
        return {chat.IMAGE_START: 1, chat.IMAGE_CONTEXT: 2, chat.IMAGE_END: 3}


CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
    "A<|im_end|>",
    "\n",
)
SPELLED = {
    "phi3_chat": ("<|system|>\nS<|end|>\n<|user|>\nQ<|end|>\n<|assistant|>\n", "A<|end|>", "\n"),
    "qwen_chat": CHATML,
    "qwen2_5_vl_chat": CHATML,
    "qwen3_vl_chat": CHATML,
    "internlm2_chat": CHATML,
    "llama3_chat": (
        "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "A<|eot_id|>",
        "",
    ),
    "vicuna": ("S USER: Q ASSISTANT:", "A</s>", ""),
}


@pytest.mark.parametrize("name", sorted(chat.TEMPLATES))
def test_template_letter_by_letter(name):
    prompt, answer, separator = SPELLED[name]
    encoded = chat.encode_conversation(Letters(bos=7), [("Q", "A")], name, system="S")
    assert encoded.input_ids[0] == 7  # the tokenizer's start token comes once, first
    assert "".join(map(chr, encoded.input_ids[1:].tolist())) == prompt + answer + separator
    assert "".join(chr(label) for label in encoded.labels.tolist() if label != -100) == answer
    assert answer.removeprefix("A") in chat.TEMPLATES[name].stop_words


def test_system_text_is_left_out_or_the_templates_own():
    plain = chat.prompt_ids(Letters(), "Q", "qwen_chat")
    assert "".join(map(chr, plain.tolist())).startswith("<|im_start|>user\nQ")
    vicuna = chat.prompt_ids(Letters(), "Q", "vicuna")
    assert "".join(map(chr, vicuna.tolist())).startswith("A chat between a curious user")


class QwenLetters(Letters):
    def get_vocab(self):
        return {"<|vision_start|>": 1, "<|image_pad|>": 2, "<|vision_end|>": 3}


@pytest.mark.parametrize(
    "name, opening", [("qwen2_5_vl_chat", "You are a helpful assistant."), ("qwen3_vl_chat", None)]
)
def test_qwen_vl_has_image_tokens_of_its_own(name, opening):
    ids = chat.prompt_ids(QwenLetters(), "<image>Q", name, image_tokens=2).tolist()
    assert ids[ids.index(1) : ids.index(3) + 1] == [1, 2, 2, 3]
    text = "".join(map(chr, ids))
    assert text.startswith("<|im_start|>user" if opening is None else "<|im_start|>system")
    assert (opening or "Q") in text
    with pytest.raises(ValueError, match="spells <.image_pad.>; write <image>"):
        chat.prompt_ids(QwenLetters(), "<|image_pad|>", name)


def test_braces_in_a_question_are_text():
    ids = chat.prompt_ids(Letters(), "the {system} {input} cup", "phi3_chat")
    assert "the {system} {input} cup<|end|>" in "".join(map(chr, ids.tolist()))


def test_a_cut_through_seg_or_image_names_the_sample(tokenizer):
    turns = [("<image> segment .", "it is [SEG]"), ("here .", "red circle . sure it is")]
    whole = chat.encode_conversation(tokenizer, turns, "qwen_chat", image_tokens=4)
    first_end = spell(tokenizer, whole.input_ids).index("[SEG]") + 2  # [SEG] <|im_end|>

    def cut(length):
        return chat.encode_conversation(
            tokenizer, turns, "qwen_chat", image_tokens=4, max_length=length, name="clip 7"
        )

    kept = cut(len(whole.input_ids) - 3)  # through the plain answer: allowed
    assert kept.input_ids.tolist() == whole.input_ids.tolist()[:-3]
    assert kept.labels.tolist() == whole.labels.tolist()[:-3]
    assert len(cut(first_end).input_ids) == first_end
    with pytest.raises(ValueError, match=rf"clip 7: {len(whole.input_ids)} tokens.*\[SEG\]"):
        cut(first_end - 1)
    with pytest.raises(ValueError, match="clip 7.*the images of turn 0"):
        cut(5)
    with pytest.raises(ValueError, match="clip 8.*nothing supervised"):
        chat.encode_conversation(
            tokenizer, [("red " * 9, "it is")], "qwen_chat", max_length=6, name="clip 8"
        )


def test_a_template_whose_end_the_tokenizer_cannot_spell_is_refused(tokenizer):
    assert chat.check_template(tokenizer, "qwen_chat") is chat.TEMPLATES["qwen_chat"]
    with pytest.raises(ValueError, match=r"cannot spell '<\|eot_id\|>'.*'llama3_chat'"):
        chat.check_template(tokenizer, "llama3_chat")


def test_mistakes_are_told(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="'qwen'; there are .*qwen_chat"):
        chat.prompt_ids(tokenizer, "the", "qwen")
    with pytest.raises(ValueError, match="s1: 2 <image> in the questions, but 0 visual"):
        chat.encode_conversation(tokenizer, [("<image> <image>", "it")], "qwen_chat", name="s1")
    with pytest.raises(ValueError, match="0 <image> in the questions, but 4 visual"):
        chat.prompt_ids(tokenizer, "the", "qwen_chat", image_tokens=4)
    with pytest.raises(ValueError, match="spells <IMG_CONTEXT>"):
        chat.prompt_ids(tokenizer, "the <IMG_CONTEXT>", "qwen_chat")
    with pytest.raises(ValueError, match="answer 0 contains <image>"):
        chat.encode_conversation(tokenizer, [("the", "<image>")], "qwen_chat")
    with pytest.raises(ValueError, match="no token '<frame_0>'"):
        chat.token_id(tokenizer, "<frame_0>")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        chat.load_tokenizer(tmp_path / "nowhere")
