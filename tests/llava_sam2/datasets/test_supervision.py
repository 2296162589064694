"""Token by token what is supervised, for every chat template and every task.

The strings around questions and answers stand here once more, written by hand: of a conversation
only answers and their end are supervised, whatever the task.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from projects.common.conversation import IGNORE_INDEX, TEMPLATES, load_shared_tokenizer
from projects.llava_sam2.datasets.boxes import BoxDataset
from projects.llava_sam2.datasets.chat import ChatDataset, ChatRow
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.grounded_captions import CaptionRow, GroundedCaptionDataset
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.datasets.regions import RegionDataset, RegionRow
from projects.llava_sam2.datasets.rows import Expression, Row, StillMask
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.datasets.temporal import TemporalDataset, TemporalInputs
from projects.llava_sam2.datasets.temporal_rows import TemporalRow
from tests.llava_sam2.datasets.tiny import HEIGHT, LEFT, RIGHT, WIDTH, rle, save_jpeg

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant . The assistant gives "
    "helpful , detailed , and polite answers to the user ' s questions ."
)
CHATML = ("<|im_start|> user ⏎", "<|im_end|> ⏎ <|im_start|> assistant ⏎", "<|im_end|>", "⏎")
LLAMA = (
    "<|start_header_id|> user <|end_header_id|> ⏎ ⏎",
    "<|eot_id|> <|start_header_id|> assistant <|end_header_id|> ⏎ ⏎",
)
# before everything; before a question, between it and its answer; behind an answer (supervised);
# between turns
AROUND = {
    "internlm2_chat": ("", *CHATML),
    "qwen_chat": ("", *CHATML),
    "qwen2_5_vl_chat": (
        "<|im_start|> system ⏎ You are a helpful assistant . <|im_end|> ⏎",
        *CHATML,
    ),
    "qwen3_vl_chat": ("", *CHATML),
    "phi3_chat": ("", "<|user|> ⏎", "<|end|> ⏎ <|assistant|> ⏎", "<|end|>", "⏎"),
    "llama3_chat": ("", *LLAMA, "<|eot_id|>", ""),
    "vicuna": (VICUNA, "USER :", "ASSISTANT :", "</s>", ""),
}
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|end|>", "<|eot_id|>", "</s>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<box>", "</box>"),
    *("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"),
]
SAID = f"""{VICUNA} You are system USER ASSISTANT : - < > ? There 0 1 2 3 4 5 6 7 8 9 segment track
find when is the left square right circle dog it no here there are one part region regions in
picture what hello
describe image see and box for""".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Words, punctuation, digits and line ends; every special token of every template."""
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {w: n for n, w in enumerate(dict.fromkeys(["<unk>", "<pad>", "\n", *SAID]))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", extra_special_tokens=SPECIAL
    ).save_pretrained(folder)
    return load_shared_tokenizer(folder)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "a.jpg"
    save_jpeg(path, 0)
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    for number in range(3):
        save_jpeg(folder / f"{number:05d}.jpg", number)
    return folder


@pytest.fixture(params=list(TEMPLATES))
def inputs(request, tokenizer):
    return GroundingInputs(
        tokenizer=tokenizer,
        template=request.param,
        tiles=SingleTile(size=16),
        tokens_per_tile=4,
        grounding_size=24,
        max_length=512,
    )


def expected(template, turns):
    """(token, supervised) of a conversation whose questions and answers are given as tokens."""
    opening, before, between, end, separator = AROUND[template]
    parts = [(opening, False)]
    for question, answer in turns:
        parts += [(f"{before} {question} {between}", False), (f"{answer} {end}", True)]
        parts += [(separator, False)]
    return [
        ("\n" if token == "⏎" else token, supervised)
        for text, supervised in parts
        for token in text.split()
    ]


def check(sample, inputs, *turns):
    """The sample is this conversation; ``{image}`` stands for a picture of four tokens."""
    chat = TEMPLATES[inputs.template]
    context = chat.image_context
    picture = " ".join([chat.image_start, *[context] * 4, chat.image_end])
    spelt = [
        (question.replace("{image}", picture).replace("{context}", context), answer)
        for question, answer in turns
    ]
    tokens = inputs.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    supervised = (sample.labels != IGNORE_INDEX).tolist()
    assert list(zip(tokens, supervised, strict=True)) == expected(inputs.template, spelt)
    assert "<unk>" not in tokens
    kept = sample.labels != IGNORE_INDEX
    assert torch.equal(sample.labels[kept], sample.input_ids[kept])


def still(image, *expressions, masks=(LEFT, RIGHT)):
    objects = tuple(StillMask(rle(mask), HEIGHT, WIDTH, where="test") for mask in masks)
    return Row("still", image, None, (HEIGHT, WIDTH), objects, expressions)


def test_every_template_is_written_down_here():
    assert set(AROUND) == set(TEMPLATES)


def test_segment_image(inputs, image):
    row = still(image, Expression("the left square", (0,), "0"))
    templates = Templates(questions=["segment {expression} ."], answers=["it is [SEG] ."])
    data = GroundingDataset(rows=[row], inputs=inputs, templates=templates, mask_size=8)
    question = "{image} ⏎ segment the left square ."
    check(data[0], inputs, (question, "it is [SEG] ."))


def test_several_expressions_one_of_them_absent(inputs, image):
    row = still(image, Expression("the left square", (0,), "0"), Expression("the dog", (), "1"))
    templates = Templates(
        questions=["find {expression} ."], answers=["[SEG]"], absent=["no {phrase} here ."]
    )
    data = GroundingDataset(rows=[row], inputs=inputs, templates=templates, mask_size=8)
    there, absent = ("find the left square .", "[SEG]"), ("find the dog .", "no dog here .")
    sample = data[0]
    text = inputs.tokenizer.decode(sample.input_ids)
    turns = [there, absent] if text.index("left") < text.index("dog") else [absent, there]
    (question, answer), rest = turns[0], turns[1:]
    check(sample, inputs, (f"{{image}} ⏎ {question}", answer), *rest)
    assert len(sample.masks) == 1


def test_segment_video(inputs, frames):
    names = tuple(f"{n:05d}.jpg" for n in range(3))
    track = StillMask(rle(LEFT), HEIGHT, WIDTH, where="test")
    row = Row("clip", frames, names, None, (track,), (Expression("the dog", (0,), "0"),))
    templates = Templates(questions=["track {expression} ."], answers=["here : [SEG] ."])
    data = GroundingDataset(
        rows=[row],
        inputs=inputs,
        templates=templates,
        mask_size=8,
        frames=UniformFrames(num=2),
    )
    question = "{image} ⏎ {image} ⏎ track the dog ."
    check(data[0], inputs, (question, "here : [SEG] ."))


def test_grounded_caption(inputs, image):
    said = (Expression("the dog", (0,), "0"), Expression("the circle", (1,), "1"))
    caption = CaptionRow(still(image, *said), "see the dog and the circle .", ((4, 11), (16, 26)))
    data = GroundedCaptionDataset(
        rows=[caption], inputs=inputs, mask_size=8, questions=["describe the image ."]
    )
    answer = "see <p> the dog </p> [SEG] and <p> the circle </p> [SEG] ."
    check(data[0], inputs, ("{image} ⏎ describe the image .", answer))


def test_region(inputs, image):
    whole = np.ones((HEIGHT, WIDTH), bool)
    turns = (("what is region1 ?", "dog"), ("hello", "no"))
    row = RegionRow(still(image, masks=[whole]), turns)
    sample = RegionDataset(rows=[row], inputs=inputs)[0]
    region = f"<vp> {'{context} ' * 4}</vp>"
    shown = f"There are 1 part regions in the picture : region 1 {region} ."
    question = f"{{image}} ⏎ {shown} ⏎ what is region 1 ?"
    check(sample, inputs, (question, "dog"), ("hello", "no"))


def test_chat_about_an_image_a_video_and_nothing(inputs, image, frames):
    turns = (("hello <image>", "dog"), ("no ?", "it is ."))
    rows = [
        ChatRow("image", turns, image),
        ChatRow("video", (("see", "dog"),), frames, video=True),
        ChatRow("words", (("hello", "dog"), ("see", "no"))),
    ]
    data = ChatDataset(rows=rows, inputs=inputs, frames=UniformFrames(num=2))
    check(data[0], inputs, ("hello {image}", "dog"), ("no ?", "it is ."))
    check(data[1], inputs, ("{image} ⏎ {image} ⏎ see", "dog"))
    check(data[2], inputs, ("hello", "dog"), ("see", "no"))


def test_box(inputs, image):
    row = still(image, Expression("the left square", (0,), "0"))  # x 2..10 of 32, y 4..12 of 20
    data = BoxDataset(rows=[row], inputs=inputs, questions=["<SPATIAL> box for {expression} ."])
    sample = data[0]
    tokens = inputs.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    start, end = tokens.index("<box>"), tokens.index("</box>")
    assert "".join(tokens[start + 1 : end]) == "0.062,0.200,0.312,0.600"
    answer = " ".join(tokens[start : tokens.index(AROUND[inputs.template][3].split()[0], start)])
    check(sample, inputs, ("{image} ⏎ <SPATIAL> box for the left square .", answer))


def test_temporal(inputs, tmp_path):
    torch.save(torch.randn(40, 6), tmp_path / "v.pt")
    row = TemporalRow("v", "v/0", tmp_path / "v.pt", "dog", 1.0, 3.0, None)
    settings = TemporalInputs(
        tokenizer=inputs.tokenizer,
        template=inputs.template,
        questions=["<TEMPORAL> when {query} <image> ?"],
        frames=UniformFrames(num=8),
        fps=10.0,
    )
    sample = TemporalDataset(rows=[row], inputs=settings)[0]
    context = TEMPLATES[inputs.template].image_context
    question = f"<TEMPORAL> when dog {' '.join([context] * 8)} ?"
    tokens = inputs.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    first = next(n for n, token in enumerate(tokens) if token.startswith("<frame_"))
    answer = " ".join(tokens[first : first + 5])
    assert tokens[first + 2] == "-"
    check(sample, inputs, (question, answer))
