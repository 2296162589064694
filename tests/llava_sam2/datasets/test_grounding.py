"""Samples: what is drawn, what is supervised, and that pixels, masks and words stay together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.common.conversation import IGNORE_INDEX, SEG
from projects.common.engine.loader import build_train_loader
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.chat import ChatDataset, listing_rows
from projects.llava_sam2.datasets.frame_samplers import FirstFrames, UniformFrames
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.pixels import (
    HorizontalFlip,
    SingleTile,
    resize_frames,
    resize_masks,
)
from projects.llava_sam2.datasets.refcoco import refcoco_rows
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.structures import collate_grounding
from tests.llava_sam2.datasets.tiny import (
    LEFT,
    RIGHT,
    block,
    tiny_inputs,
    write_mevis,
    write_refcoco,
)

TEMPLATES = Templates(
    questions=["segment {expression} ."], answers=["sure it is [SEG] {expression} ."]
)


@pytest.fixture
def inputs(tmp_path):
    return tiny_inputs(tmp_path / "tokenizer")


@pytest.fixture
def image_rows(tmp_path):
    return refcoco_rows(**write_refcoco(tmp_path / "refcoco"), split="train")


@pytest.fixture
def video_rows(tmp_path):
    return mevis_rows(root=write_mevis(tmp_path / "mevis"))


def dataset(rows, inputs, **changes):
    settings = dict(rows=rows, inputs=inputs, templates=TEMPLATES, mask_size=32, expressions=4)
    return GroundingDataset(**(settings | changes))


def words(inputs, ids):
    return inputs.tokenizer.convert_ids_to_tokens(ids.tolist())


def asked(inputs, sample):
    """The expressions of a sample in order, read back from its token ids."""
    questions = " ".join(words(inputs, sample.input_ids)).split("segment ")[1:]
    return [question.split(" .")[0] for question in questions]


def test_an_image_sample_token_by_token(inputs, image_rows):
    sample = dataset(image_rows, inputs)[1]  # a single expression: blue square
    start, end = "<|im_start|>", "<|im_end|>"
    question = [start, "user", "<img>", *["<IMG_CONTEXT>"] * 4, "</img>"]
    question += ["segment", "blue", "square", ".", end, start, "assistant"]
    answer = ["sure", "it", "is", SEG, "blue", "square", ".", end]
    assert words(inputs, sample.input_ids) == question + answer
    supervised = sample.labels != IGNORE_INDEX
    assert words(inputs, sample.input_ids[supervised]) == answer
    assert torch.equal(sample.labels[supervised], sample.input_ids[supervised])
    assert sample.pixel_values.shape == (1, 3, 16, 16)
    assert sample.grounding_frames.shape == (1, 3, 24, 24)
    assert sample.pixel_values.dtype == sample.grounding_frames.dtype == torch.uint8
    assert sample.masks.shape == (1, 1, 32, 32)
    assert (sample.task, sample.name) == ("segment", "im_2.jpg")


def test_several_expressions_keep_their_own_masks(inputs, image_rows):
    expected = {"the left square": LEFT, "red square": LEFT, "the right circle": RIGHT}
    orders = set()
    for seed in range(12):
        sample = dataset(image_rows, inputs)[Draw(0, 0, seed)]
        texts = asked(inputs, sample)
        assert sorted(texts) == sorted(expected)
        assert words(inputs, sample.input_ids).count("<img>") == 1
        assert words(inputs, sample.input_ids).count(SEG) == len(sample.masks) == 3
        for text, mask in zip(texts, sample.masks, strict=True):
            assert torch.equal(mask[0], resize_masks(expected[text], 32))
        orders.add(tuple(texts))
    assert len(orders) > 1  # the order is drawn


def test_fewer_expressions_or_repeated_ones(inputs, image_rows):
    assert len(dataset(image_rows, inputs, expressions=2)[0].masks) == 2
    assert len(dataset(image_rows, inputs, expressions=5, with_repetition=True)[1].masks) == 5
    with pytest.raises(ValueError, match="at least 1 expression"):
        dataset(image_rows, inputs, expressions=0)


def test_a_sample_is_a_function_of_its_draw(inputs, image_rows):
    flip = HorizontalFlip(probability=0.5, words={"left": "right"})
    data = dataset(image_rows, inputs, expressions=2, flip=flip)
    first, second = data[Draw(0, 0, 3)], data[Draw(0, 0, 3)]
    for name in ("input_ids", "labels", "pixel_values", "grounding_frames", "masks"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert any(
        not torch.equal(first.pixel_values, data[Draw(0, 0, seed)].pixel_values)
        for seed in range(8)
    )


def test_a_flip_mirrors_pixels_masks_and_words(inputs, image_rows):
    flip = HorizontalFlip(probability=1.0, words={"left": "right"})
    plain = dataset(image_rows, inputs)[Draw(0, 0, 0)]
    mirrored = dataset(image_rows, inputs, flip=flip)[Draw(0, 0, 0)]
    swap = {"the left square": "the right square", "the right circle": "the left circle"}
    texts = asked(inputs, plain)
    assert asked(inputs, mirrored) == [swap.get(text, text) for text in texts]
    assert torch.equal(mirrored.masks, plain.masks.flip(-1))
    difference = mirrored.grounding_frames.flip(-1).int() - plain.grounding_frames.int()
    assert difference.abs().max() <= 1  # resizing rounds
    never = HorizontalFlip(probability=0.0, words={"left": "right"})
    assert torch.equal(dataset(image_rows, inputs, flip=never)[0].masks, plain.masks)


def test_flipping_words():
    flip = HorizontalFlip(probability=1, words={"left": "right", "leftmost": "rightmost"})
    assert flip.text("the Left, rightmost one going right") == "the right, leftmost one going left"
    assert flip.text("bright leftover") == "bright leftover"  # whole words only
    with pytest.raises(ValueError, match="0..1"):
        HorizontalFlip(probability=2, words={})


def test_a_video_sample(inputs, video_rows):
    data = dataset(video_rows, inputs, frames=UniformFrames(num=2))
    sample = data[Draw(0, 0, 1)]
    tokens = words(inputs, sample.input_ids)
    assert tokens.count("<img>") == 2 and tokens.count("<IMG_CONTEXT>") == 8
    assert sample.pixel_values.shape == (2, 3, 16, 16)
    assert sample.grounding_frames.shape == (2, 3, 24, 24)
    texts = asked(inputs, sample)
    expected = {
        "the left square": [block(0, 0, 6, 6), block(0, 4, 6, 10)],
        "both": [block(0, 0, 6, 6) | block(10, 20, 16, 26), block(0, 4, 6, 12)],
    }
    for text, masks in zip(texts, sample.masks, strict=True):
        assert torch.equal(masks, resize_masks(np.stack(expected[text]), 32))


def test_a_null_frame_is_an_empty_mask(inputs, video_rows):
    sample = dataset(video_rows, inputs, frames=FirstFrames(num=2))[0]
    row = asked(inputs, sample).index("the left square")
    assert sample.masks[row, 0].any() and not sample.masks[row, 1].any()


def test_samples_of_images_and_videos_collate(inputs, image_rows, video_rows):
    still = dataset(image_rows, inputs)
    moving = dataset(video_rows, inputs, frames=UniformFrames(num=2))
    batch = collate_grounding([still[0], moving[0], still[1]], pad_id=0)
    assert batch.frames_per_sample == [1, 2, 1]
    assert batch.pixel_values.shape[0] == batch.grounding_frames.shape[0] == 4
    assert [len(masks) for masks in batch.masks] == [3, 2, 1]


def test_too_long_a_conversation_names_the_sample(tmp_path, image_rows):
    inputs = tiny_inputs(tmp_path / "tokenizer", max_length=30)
    with pytest.raises(ValueError, match=r"im_1\.jpg: \d+ tokens, but at most 30"):
        dataset(image_rows, inputs)[0]


def test_templates_are_checked_and_survive_braces():
    with pytest.raises(ValueError, match="lacks {expression}"):
        Templates(questions=["segment it"])
    with pytest.raises(ValueError, match="exactly one"):
        Templates(questions=["{expression}"], answers=["[SEG] [SEG]"])
    with pytest.raises(ValueError, match="at least one"):
        Templates(questions=[])
    assert TEMPLATES.first("{x} {0}") == ("segment {x} {0} .", "sure it is [SEG] {x} {0} .")
    many = Templates(questions=["a {expression}", "b {expression}"])
    drawn = {many.draw("dog", np.random.default_rng(seed))[0] for seed in range(20)}
    assert drawn == {"a dog", "b dog"}


def test_masks_take_the_nearest_pixel_and_frames_keep_their_colours():
    mask = np.zeros((1, 4, 8), bool)
    mask[0, :2, 4:] = True
    expected = torch.zeros(1, 2, 2, dtype=torch.bool)
    expected[0, 0, 1] = True
    assert torch.equal(resize_masks(mask, 2), expected)
    large = resize_masks(mask, 16)[0]
    assert large[:8, 8:].all() and large.sum() == 64
    frame = np.full((1, 5, 9, 3), (10, 128, 250), np.uint8)
    assert (resize_frames(frame, 4).permute(0, 2, 3, 1) == torch.tensor([10, 128, 250])).all()
    same = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_frames(same, 6)[0].permute(1, 2, 0).numpy(), same[0])
    tile = SingleTile(size=4)
    assert tile.image(same[0]).shape == (1, 3, 4, 4)
    assert tile.frames(np.repeat(same, 3, 0)).shape == (3, 3, 4, 4)


def test_listing_captions_read_left_to_right(inputs, image_rows):
    (first,) = listing_rows(rows=image_rows, question="describe the image .")  # no groups
    assert first.turns == (("describe the image .", "the left square , the right circle"),)
    words_used = {"10": ["relation"], "11": ["colour"], "20": ["relation"], "30": ["colour"]}
    labels = {key: {"uses": used} for key, used in words_used.items()}
    chosen = listing_rows(rows=image_rows, question="q", labels=labels, only=["colour"])
    assert [row.turns[0][1] for row in chosen] == ["red square"]
    several = listing_rows(rows=image_rows[:1] * 3, question=["a", "b"])
    assert [row.turns[0][0] for row in several] == ["a", "b", "a"]
    sample = ChatDataset(rows=[first], inputs=inputs)[Draw(0, 0, 9)]
    supervised = sample.input_ids[sample.labels != IGNORE_INDEX]
    assert words(inputs, supervised) == "the left square , the right circle <|im_end|>".split()
    assert (sample.task, sample.masks, sample.grounding_frames) == ("chat", None, None)
    assert sample.pixel_values.shape == (1, 3, 16, 16)


def test_lengths_are_those_of_the_samples_and_read_no_pixels(image_rows, video_rows, inputs):
    """With one phrasing and all expressions, the length is exact."""
    for rows in (image_rows, video_rows):
        data = dataset(rows, inputs, frames=UniformFrames(num=2), expressions=5)
        drawn = [len(data[index].input_ids) for index in range(len(data))]
        for row in rows:
            for file in [row.source] if row.frames is None else row.source.iterdir():
                file.unlink()
        assert [data.length_of(index) for index in range(len(data))] == drawn
        assert len(set(drawn)) > 1


def test_a_loader_groups_samples_by_their_lengths(image_rows, inputs):

    many = [image_rows[number % 2] for number in range(64)]
    entry = {"dataset": dataset(many, inputs, expressions=5)}
    loader = build_train_loader(
        datasets=[entry],
        batch_size=4,
        collate=list,
        max_steps=16,
        max_epochs=None,
        seed=0,
        rank=0,
        world_size=1,
        group_by_length=True,
    )
    batches = [[len(sample.input_ids) for sample in item["batch"]] for item in loader]
    assert all(len(set(lengths)) == 1 for lengths in batches)
    assert len({lengths[0] for lengths in batches}) == 2
