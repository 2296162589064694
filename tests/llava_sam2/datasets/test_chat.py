"""Conversations about images, videos and nothing: where pictures stand, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from projects.common.conversation import IGNORE_INDEX
from projects.common.samplers import Draw
from projects.common.video import write_mp4
from projects.llava_sam2.datasets.chat import ChatDataset, ChatRow
from projects.llava_sam2.datasets.frame_samplers import RandomFrames, UniformFrames
from projects.llava_sam2.datasets.llava_json import llava_rows
from projects.llava_sam2.structures import collate_grounding
from tests.llava_sam2.datasets.tiny import save_jpeg, tiny_inputs

PICTURE = ["<img>", *["<IMG_CONTEXT>"] * 4, "</img>"]
START, END = "<|im_start|>", "<|im_end|>"


def ask(value):
    return {"from": "human", "value": value}


def say(value):
    return {"from": "gpt", "value": value}


@pytest.fixture
def inputs(tmp_path):
    return tiny_inputs(tmp_path / "tokenizer")


@pytest.fixture
def read(tmp_path):
    """Writes records to a json beside an image, a folder of 7 frames and an mp4, and reads it."""
    save_jpeg(tmp_path / "images" / "a.jpg", 0)
    for number in range(7):
        save_jpeg(tmp_path / "videos" / "clip" / f"{number:05d}.jpg", number)
    frames = [np.full((64, 64, 3), 30 * k, np.uint8) for k in range(4)]
    write_mp4(tmp_path / "videos" / "clip.mp4", frames, fps=4)

    def read(*records, **settings):
        file = tmp_path / "chat.json"
        file.write_text(json.dumps(records))
        roots = dict(image_root=tmp_path / "images", video_root=tmp_path / "videos")
        return llava_rows(file=file, **(roots | settings))

    return read


def words(inputs, ids):
    return inputs.tokenizer.convert_ids_to_tokens(ids.tolist())


def supervised(inputs, sample):
    return words(inputs, sample.input_ids[sample.labels != IGNORE_INDEX])


def user(*tokens):
    return [START, "user", *tokens, END, START, "assistant"]


def test_several_turns_about_an_image_token_by_token(inputs, read):
    turns = [ask("<image>\ndescribe the image ."), say("red square"), ask("and ?"), say("big dog")]
    (row,) = read({"image": "a.jpg", "conversations": turns})
    sample = ChatDataset(rows=[row], inputs=inputs)[0]
    expected = user(*PICTURE, "describe", "the", "image", ".") + ["red", "square", END]
    expected += user("and", "<unk>") + ["big", "dog", END]
    assert words(inputs, sample.input_ids) == expected
    assert supervised(inputs, sample) == ["red", "square", END, "big", "dog", END]
    assert (sample.task, sample.masks, sample.grounding_frames) == ("chat", None, None)
    assert sample.pixel_values.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        (["describe", "it"], [[*PICTURE, "describe"], ["it"]]),  # nowhere said: before the first
        (["describe <image> .", "it"], [["describe", *PICTURE, "."], ["it"]]),
        (["describe\n<image>", "it"], [["describe", *PICTURE], ["it"]]),
        (["describe", "<image> it"], [["describe"], [*PICTURE, "it"]]),  # a later question
    ],
)
def test_a_picture_stands_where_a_question_says(inputs, read, questions, expected):
    turns = [part for question in questions for part in (ask(question), say("dog"))]
    (row,) = read({"image": "a.jpg", "conversations": turns})
    sample = ChatDataset(rows=[row], inputs=inputs)[0]
    tokens = [token for question in expected for token in [*user(*question), "dog", END]]
    assert words(inputs, sample.input_ids) == tokens


@pytest.mark.parametrize(("name", "frames"), [("clip", 3), ("clip.mp4", 3), ("clip.mp4", 9)])
def test_a_video_is_its_sampled_frames(inputs, read, name, frames):
    turns = [ask("<video>\ndescribe it ."), say("dog")]
    (row,) = read({"video": name, "conversations": turns})
    dataset = ChatDataset(rows=[row], inputs=inputs, frames=UniformFrames(num=frames))
    sample = dataset[0]
    seen = min(frames, 4 if name.endswith("mp4") else 7)
    assert words(inputs, sample.input_ids)[:-2] == user(*PICTURE * seen, "describe", "it", ".")
    assert sample.pixel_values.shape == (seen, 3, 16, 16)
    if name == "clip":
        last = torch.from_numpy(np.array(Image.open(row.source / "00006.jpg"))).float()
        assert abs(sample.pixel_values[-1].float().mean() - last.mean()) < 2


def test_which_frames_are_seen_depends_on_the_draw_alone(inputs, read):
    (row,) = read({"video": "clip", "conversations": [ask("it"), say("dog")]})
    dataset = ChatDataset(rows=[row], inputs=inputs, frames=RandomFrames(num=2))
    first, again = dataset[Draw(0, 0, 5)], dataset[Draw(0, 0, 5)]
    assert torch.equal(first.pixel_values, again.pixel_values)
    others = [dataset[Draw(0, 0, seed)].pixel_values for seed in range(6)]
    assert any(not torch.equal(first.pixel_values, other) for other in others)


def test_words_alone_bring_no_pixels_and_mix_with_pictures(inputs, read):
    rows = read(
        {"conversations": [ask("describe the dog"), say("big")]},
        {"image": "a.jpg", "conversations": [ask("it"), say("red square")]},
        {"video": "clip", "conversations": [ask("it"), say("blue")]},
    )
    dataset = ChatDataset(rows=rows, inputs=inputs, frames=UniformFrames(num=2))
    alone = dataset[0]
    assert words(inputs, alone.input_ids) == [*user("describe", "the", "dog"), "big", END]
    assert alone.pixel_values is None
    batch = collate_grounding([dataset[k] for k in range(3)])
    assert batch.tiles_per_sample == [0, 1, 2] and len(batch.pixel_values) == 3
    assert collate_grounding([alone, alone]).pixel_values is None


TURNS = [ask("it"), say("dog")]
BAD = {
    "expected an object, found str": "text",
    "it needs 'conversations'": {"image": "a.jpg"},
    "turn 1 lacks value": {"conversations": [ask("it"), {"from": "gpt"}]},
    "speakers must alternate human, gpt; found": {"conversations": [ask("it"), ask("it")]},
    "speakers must alternate": {"conversations": [ask("it")]},
    "turn 1 has 3 as 'value', not text": {"conversations": [ask("it"), say(3)]},
    "an empty question or answer": {
        "image": "a.jpg",
        "conversations": [ask("<image>\n"), say("x")],
    },
    "no file .*gone.jpg": {"image": "gone.jpg", "conversations": TURNS},
    "'../chat.json' leads out of": {"image": "../chat.json", "conversations": TURNS},
    "'/etc/passwd' leads out of": {"image": "/etc/passwd", "conversations": TURNS},
    r"\['a.jpg'\] is no file name": {"image": ["a.jpg"], "conversations": TURNS},
    "it has an image and a video": {"image": "a.jpg", "video": "clip", "conversations": TURNS},
    "places for 1 pictures, it brings 0": {"conversations": [ask("<image> it"), say("dog")]},
    "places for 2 pictures, it brings 1": {
        "image": "a.jpg",
        "conversations": [ask("<image> <image> it"), say("dog")],
    },
    "an answer holds": {"image": "a.jpg", "conversations": [ask("it"), say("<image> dog")]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_records_are_named_or_skipped(read, message):
    good = {"image": "a.jpg", "conversations": TURNS}
    with pytest.raises(ValueError, match=f"chat.json: 1 bad records:\n  record 1: .*{message}"):
        read(good, BAD[message])
    assert len(read(good, BAD[message], on_bad_row="skip")) == 1


def test_what_is_said_before_the_first_question_is_left_out(read):
    (row,) = read({"conversations": [say("hello"), *TURNS]})
    assert row.turns == (("it", "dog"),)
    with pytest.raises(ValueError, match="speakers must alternate human, gpt; found \\[\\]"):
        read({"conversations": [say("hello")]})


def test_files_that_are_no_list_and_roots_that_lack(read, tmp_path):
    with pytest.raises(ValueError, match="has 'video', but no video_root was given"):
        read({"video": "clip", "conversations": TURNS}, video_root=None)
    assert read({"conversations": TURNS}, image_root=None, video_root=None)[0].source is None
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json: expected a list of records, found dict"):
        llava_rows(file=tmp_path / "other.json")
    assert len(read(*[{"conversations": TURNS}] * 5, limit=2)) == 2


def test_a_truncated_image_is_named_when_it_is_read(inputs, tmp_path):
    save_jpeg(tmp_path / "whole.jpg", 1)
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    row = ChatRow("row", (("it", "dog"),), tmp_path / "cut.jpg")
    with pytest.raises(ValueError, match=r"cut\.jpg: does not decode"):
        ChatDataset(rows=[row], inputs=inputs)[0]
