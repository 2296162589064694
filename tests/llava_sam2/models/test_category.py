"""The head that tells the image encoder what things are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from projects.llava_sam2.models.heads.category import CategoryHead, pool_objects
from projects.sam2_video.data.clip import Clip, collate_clips
from tests.llava_sam2.models.toy_parts import toy_sam2

SIDE = 96


def image(name, boxes, categories):
    """Random pixels; each object is a box ``(top, left, bottom, right)``."""
    generator = torch.Generator().manual_seed(len(name))
    masks = torch.zeros(1, len(boxes), SIDE, SIDE, dtype=torch.bool)
    for row, (top, left, bottom, right) in enumerate(boxes):
        masks[0, row, top:bottom, left:right] = True
    return Clip(
        frames=torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
        masks=masks,
        object_ids=list(range(len(boxes))),
        name=name,
        task="category",
        categories=categories,
    )


def head():
    torch.manual_seed(4)
    return CategoryHead(features=64, categories=4, weight=0.5)


BATCH = [
    image("one", [(0, 0, 16, 24)], [2]),  # cells of 8 pixels: rows 0 to 1, columns 0 to 2
    image("three", [(8, 8, 13, 16), (90, 90, 92, 93), (40, 40, 64, 96)], [0, 3, 1]),
]


def test_the_loss_is_the_mean_cross_entropy_of_features_under_each_object():
    sam2, classifier = toy_sam2(), head()
    loss = classifier.loss(collate_clips(BATCH), mllm=None, grounding=sam2)["loss_category"]

    embed = sam2.encode_frames(torch.cat([clip.frames for clip in BATCH])).embed  # 12 x 12 cells
    pooled = [
        embed[0, :, 0:2, 0:3].mean((1, 2)),
        embed[1, :, 1, 1],  # 5 of its 8 rows: more than half
        embed[1, :, 11, 11],  # fills no cell by half: the cell that holds most of it
        embed[1, :, 5:8, 5:12].mean((1, 2)),
    ]
    logits = torch.stack(pooled) @ classifier.classify.weight.T + classifier.classify.bias
    expected = -0.5 * F.log_softmax(logits, 1)[range(4), [2, 0, 3, 1]].mean()
    torch.testing.assert_close(loss, expected)

    loss.backward()
    first = sam2.blocks.vision_encoder.backbone.patch_embed.projection.weight
    assert first.grad.abs().max() > 0


def test_masks_of_another_size_than_the_features_are_pooled_by_share():
    embed = torch.arange(6.0).reshape(1, 1, 2, 3)
    masks = torch.zeros(1, 4, 9, dtype=torch.bool)
    masks[0, :2, :5] = True  # the first cell, and 2 of 3 columns of the second
    assert pool_objects(embed, masks).item() == pytest.approx(0.5)


def test_what_cannot_be_classified_is_named():
    sam2, classifier = toy_sam2(), head()
    cases = [
        (image("far", [(0, 0, 9, 9)], [4]), "far: an object is of category 4"),
        (image("mute", [(0, 0, 9, 9)], None), "objects of mute have no category"),
    ]
    for clip, message in cases:
        with pytest.raises(ValueError, match=message):
            classifier.loss(collate_clips([clip]), mllm=None, grounding=sam2)
    video = image("long", [(0, 0, 9, 9)], [1])
    video.frames, video.masks = video.frames.repeat(2, 1, 1, 1), video.masks.repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match="clips of 2 frames"):
        classifier.loss(collate_clips([video]), mllm=None, grounding=sam2)


def test_categories_are_joined_only_where_all_are_known():
    assert collate_clips(BATCH).categories.tolist() == [2, 0, 3, 1]
    assert collate_clips([BATCH[0], image("mute", [(0, 0, 9, 9)], None)]).categories is None
    with pytest.raises(ValueError, match="1 object ids and 2 categories"):
        image("odd", [(0, 0, 9, 9)], [1, 2])
