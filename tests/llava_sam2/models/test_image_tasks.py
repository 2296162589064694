"""Captions, conversations, regions and what is not there, through a whole (tiny) model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.common.samplers import Draw
from projects.common.video import read_image
from projects.llava_sam2.datasets.chat import ChatDataset, ChatRow
from projects.llava_sam2.datasets.grounded_captions import CaptionRow, GroundedCaptionDataset
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.regions import RegionDataset, RegionRow
from projects.llava_sam2.datasets.rows import Expression, Row, StillMask
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.evaluation.responders import AskModel
from projects.llava_sam2.models.heads import ChatHead
from projects.llava_sam2.predictor import GroundedPredictor
from projects.llava_sam2.structures import collate_grounding
from tests.llava_sam2.datasets.tiny import HEIGHT, LEFT, RIGHT, WIDTH, rle, save_jpeg
from tests.llava_sam2.evaluation.tiny_model import toy_model

TEMPLATES = Templates(
    questions=["segment {expression} ."],
    answers=["sure it is [SEG] ."],
    absent=["the {phrase} , - ."],
)


@pytest.fixture
def image(tmp_path):
    save_jpeg(tmp_path / "a.jpg", 3)
    return tmp_path / "a.jpg"


@pytest.fixture
def made(tmp_path):
    model, inputs = toy_model(tmp_path / "model")
    model.heads["chat"] = ChatHead()
    return model, inputs


def still(image, *expressions, masks=(LEFT, RIGHT)):
    objects = tuple(StillMask(rle(mask), HEIGHT, WIDTH, where="test") for mask in masks)
    return Row("still", image, None, (HEIGHT, WIDTH), objects, expressions)


def test_each_phrase_of_a_caption_has_its_seg_and_mask(made, image):
    model, inputs = made
    said = (Expression("the dog", (0,), "0"), Expression("circle", (1,), "1"))
    caption = CaptionRow(still(image, *said), "the dog and circle", ((0, 7), (12, 18)))
    data = GroundedCaptionDataset(
        rows=[caption], inputs=inputs, mask_size=24, questions=["describe ."]
    )
    sample = data[0]
    assert {"loss_language", "loss_bce", "loss_dice"} <= set(
        model.loss(collate_grounding([sample]))
    )
    sample.masks = sample.masks[:1]
    with pytest.raises(ValueError, match="still: 2 .*SEG.* tokens but 1 expressions"):
        model.loss(collate_grounding([sample]))


def test_the_words_of_regions_depend_on_the_region(made, image):
    """And the visual tokens between <vp> and </vp> are those of the region's cells."""
    model, inputs = made
    left, right = np.zeros((2, HEIGHT, WIDTH), bool)
    left[:, : WIDTH // 2], right[:, WIDTH // 2 :] = True, True
    turns = (("describe region1 .", "red dog"),)
    rows = [RegionRow(still(image, masks=[mask]), turns) for mask in (left, right)]
    data = RegionDataset(rows=rows, inputs=inputs)
    one, other = data[0], data[1]
    assert torch.equal(one.input_ids, other.input_ids)  # as many tokens, of other cells
    losses = [model.loss(collate_grounding([s]))["loss_language"] for s in (one, other)]
    assert not torch.allclose(*losses, rtol=1e-6)

    mllm = model.mllm
    batch = collate_grounding([one, other])
    embedded = mllm.embed(batch.input_ids, batch.pixel_values, regions=batch.regions)
    visual = mllm.visual_features(batch.pixel_values)[..., : mllm.hidden_size]
    for number, cells in enumerate(([0, 2], [1, 3])):  # columns of the 2 x 2 grid
        places = (batch.input_ids[number] == mllm.image_id).nonzero()[:, 0]
        torch.testing.assert_close(embedded[number, places[:4]], visual[number])
        torch.testing.assert_close(embedded[number, places[4:]], visual[number][cells])


def test_what_is_learned_of_regions_is_answered_about_them(made, image):
    """One picture, two regions: the answer follows the mask that the question points at."""
    model, inputs = made
    left, right = np.zeros((2, HEIGHT, WIDTH), bool)
    left[:, : WIDTH // 2], right[:, WIDTH // 2 :] = True, True
    said = {"red circle": left, "blue dog": right}
    question = "describe region1 ."
    rows = [RegionRow(still(image, masks=[m]), ((question, a),)) for a, m in said.items()]
    batch = collate_grounding(list(RegionDataset(rows=rows, inputs=inputs)))
    optimizer = torch.optim.Adam(model.mllm.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(batch)["loss_language"].backward()
        optimizer.step()
    predictor = GroundedPredictor(model=model, inputs=inputs, max_new_tokens=4)
    picture = read_image(image)
    turned = [[right], [left], [right]]
    answers = predictor.image(picture, [question] * 3, regions=turned)
    assert [answer.text for answer in answers] == ["blue dog", "red circle", "blue dog"]


def test_a_batch_of_conversations_is_the_mean_of_its_tokens(made, image):
    """Images, regions and words alone beside each other: as if each were alone."""
    model, inputs = made
    chats = ChatDataset(
        rows=[
            ChatRow("image", (("describe it .", "red square"),), image),
            ChatRow("words", (("it is", "dog"), ("and", "the big dog"))),
        ],
        inputs=inputs,
    )
    region = RegionRow(still(image, masks=[LEFT, RIGHT]), (("describe region2 .", "circle"),))
    samples = [chats[0], chats[1], RegionDataset(rows=[region], inputs=inputs)[0]]
    counts = [int((sample.labels[1:] != -100).sum()) for sample in samples]
    alone = [model.loss(collate_grounding([sample]))["loss_language"] for sample in samples]
    together = model.loss(collate_grounding(samples))["loss_language"]
    mean = sum(n * loss for n, loss in zip(counts, alone, strict=True)) / sum(counts)
    torch.testing.assert_close(together, mean, rtol=1e-4, atol=1e-5)


def test_a_model_learns_to_say_what_is_not_there(made, image):
    model, inputs = made
    said = (Expression("square", (0,), "0"), Expression("dog", (), "1"))
    row = still(image, *said)
    # the words alone are trained: SAM 2 has no part in what is said
    data = GroundingDataset(
        rows=[row], inputs=inputs, templates=TEMPLATES, mask_size=24, task="chat"
    )
    optimizer = torch.optim.Adam(model.mllm.parameters(), lr=3e-3)
    for step in range(40):
        optimizer.zero_grad()
        model.loss(collate_grounding([data[Draw(0, 0, step)]]))["loss_language"].backward()
        optimizer.step()
    respond = AskModel(inputs=inputs, templates=TEMPLATES, max_new_tokens=8)
    there, absent = respond.answer(model, row)
    assert there.text == "sure it is [SEG] ." and len(there.masks) == 1
    assert absent.text == "the dog , - ." and absent.masks == []
