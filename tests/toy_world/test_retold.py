"""What other formats tell of the toy world's images, read back by the project's own readers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from projects.llava_sam2.datasets.chat import ChatDataset
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.gcg import flickr_gcg_rows, grandf_rows, refcocog_gcg_rows
from projects.llava_sam2.datasets.grounded_captions import GroundedCaptionDataset
from projects.llava_sam2.datasets.llava_json import llava_rows
from projects.llava_sam2.datasets.osprey import osprey_rows
from projects.llava_sam2.datasets.refcoco import grefcoco_rows, refcoco_rows
from projects.llava_sam2.datasets.regions import RegionDataset
from projects.llava_sam2.datasets.sa2va_json import sa2va_rows
from projects.toy_world.generate import generate
from projects.toy_world.scene import Scene, SceneSpec, sample_scene
from projects.toy_world.world import World
from tests.llava_sam2.datasets.tiny import tiny_inputs

SIDE, TRAIN = 96, 44  # more images than are told of
SIZES = {
    "refcoco_train": TRAIN,
    "refcoco_val": 3,
    "refcoco_testA": 2,
    "refcoco_testB": 2,
    "mevis_train": 3,
}
WORLD = World(seed=5, sizes=SIZES, side=SIDE, clip_frames=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world") / "toy"
    generate(WORLD, out)
    return out


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """The scenes of the first images of train, drawn anew."""
    spec = SceneSpec(size=SIDE)
    return [sample_scene(WORLD.generator("refcoco", "train", n), spec) for n in range(40)]


@pytest.fixture(scope="module")
def coco(root):
    return root / "coco2014" / "train2014"


@pytest.fixture(scope="module")
def refcoco(root, coco):
    """The rows of RefCOCO's train by image, which other formats are compared with."""
    rows = refcoco_rows(root=root / "refer_seg" / "refcoco", image_root=coco, split="train")
    return {row.name: row for row in rows}


def number_of(name: str) -> int:
    """The place of an image within its split, from its file name."""
    return int(re.search(r"(\d+)\.jpg", name)[1]) - 1


def mask_of(row, expression):
    return row.read_mask(expression.objects, 0, row.size)


def described(scene: Scene, text: str) -> list[int]:
    """Things of a scene that a description like "a small red circle" is true of."""
    words = text.lower().split()
    return [
        n
        for n, thing in enumerate(scene.things)
        if {thing.size, thing.colour, thing.shape} >= set(words) - {"a"}
    ]


def test_refcoco_plus_is_refcoco_without_places(root, coco, refcoco) -> None:
    folder = root / "refer_seg" / "refcoco+"
    rows = refcoco_rows(root=folder, image_root=coco, split="train")
    assert len(rows) <= 40
    kept, left_out = 0, 0
    for row in rows:
        before = {e.text: mask_of(refcoco[row.name], e) for e in refcoco[row.name].expressions}
        for expression in row.expressions:
            np.testing.assert_array_equal(mask_of(row, expression), before.pop(expression.text))
            assert not re.search("most|largest|left of|above|behind|front", expression.text)
            kept += 1
        left_out += len(before)
    assert kept > 60 and left_out > 0
    splits = [refcoco_rows(root=folder, image_root=coco, split=s) for s in ("val", "testA")]
    assert [len(split) for split in splits] == [3, 2]


def test_refcocog_is_split_by_images_or_by_objects(root, coco, refcoco) -> None:
    folder = dict(root=root / "refer_seg" / "refcocog", image_root=coco)
    umd = {s: refcoco_rows(**folder, split_by="umd", split=s) for s in ("train", "val", "test")}
    images = {split: {row.name for row in rows} for split, rows in umd.items()}
    assert len(images["test"]) == 4
    assert not images["train"] & images["val"] and not images["val"] & images["test"]
    google = {s: refcoco_rows(**folder, split_by="google", split=s) for s in ("train", "val")}
    train, val = ({row.name for row in google[split]} for split in ("train", "val"))
    assert train & val  # an image in both, and no expression in both
    keys = [{e.key for row in rows for e in row.expressions} for rows in google.values()]
    assert not keys[0] & keys[1]
    everything = {e.key for rows in umd.values() for row in rows for e in row.expressions}
    assert keys[0] | keys[1] == everything
    for row in umd["train"]:
        before = {e.text: mask_of(refcoco[row.name], e) for e in refcoco[row.name].expressions}
        for expression in row.expressions:
            assert len(expression.text.split()) >= 3
            np.testing.assert_array_equal(mask_of(row, expression), before[expression.text])
    with pytest.raises(ValueError, match="no refs of split 'test'; it has train, val"):
        refcoco_rows(**folder, split_by="google", split="test")


def test_grefcoco_names_one_many_and_none(root, coco, refcoco, scenes) -> None:
    folder = dict(root=root / "refer_seg" / "grefcoco", image_root=coco)
    rows = grefcoco_rows(**folder, split="train")
    assert len(rows) == 40 and len(grefcoco_rows(**folder, split="testB")) == 2
    counts = {0: 0, 1: 0, 2: 0}
    for row in rows:
        scene = scenes[number_of(row.name)]
        before = {e.text: mask_of(refcoco[row.name], e) for e in refcoco[row.name].expressions}
        assert not any(track.group for track in row.objects)
        for expression in row.expressions:
            counts[min(len(expression.objects), 2)] += 1
            mask = mask_of(row, expression)
            expected = scene.masks[0, list(expression.objects)].any(axis=0)
            np.testing.assert_array_equal(mask, expected)
            if expression.text in before:
                np.testing.assert_array_equal(mask, before[expression.text])
            elif not expression.objects:
                assert described(scene, expression.text.replace("the", "a")) == []
                assert not mask.any()
            else:
                parts = expression.text.split(" and ")
                assert len(parts) == len(expression.objects) == 2
                both = np.logical_or(*(before[part] for part in parts))
                np.testing.assert_array_equal(mask, both)
    assert counts[0] == 40 and counts[1] > 60 and counts[2] > 30


def test_sa2va_json(root, refcoco) -> None:
    folder = root / "sa2va_finetune"
    rows = sa2va_rows(file=folder / "annotations.json", image_root=folder / "images")
    assert sum(len(row.expressions) for row in rows) > 60
    for row in rows:
        before = {e.text: mask_of(refcoco[row.name], e) for e in refcoco[row.name].expressions}
        assert (row.read([0]) == refcoco[row.name].read([0])).all()
        for expression in row.expressions:
            np.testing.assert_array_equal(mask_of(row, expression), before[expression.text])


def captions(root, reader, name, images):
    folder = root / "glamm_data"
    return reader(file=folder / "annotations" / name, image_root=folder / "images" / images)


@pytest.mark.parametrize(
    ("reader", "name", "images", "number"),
    [
        (refcocog_gcg_rows, "RefCOCOg_GCG_train.json", "coco2014/train2014", 40),
        (grandf_rows, "GranDf_HA_GCG_train.json", "grandf/train", 40),
        (grandf_rows, "OpenPsgGCG_train.json", "coco2017", 20),
        (flickr_gcg_rows, "flickr_mergedGT_GCG_train.json", "flickr30k", 40),
    ],
)
def test_grounded_captions_have_the_masks_of_their_phrases(
    root, scenes, reader, name, images, number
) -> None:
    rows = captions(root, reader, name, images)
    assert len(rows) == number
    for caption in rows:
        scene = scenes[number_of(str(caption.row.source))]
        named: set[int] = set()
        for phrase, (start, end) in zip(caption.row.expressions, caption.spans, strict=True):
            assert caption.caption[start:end] == phrase.text
            words = phrase.text.lower().replace("circles", "circle").split()[1:]
            things = described(scene, " ".join(word.removesuffix("s") for word in words))
            expected = scene.masks[0, things].any(axis=0)
            np.testing.assert_array_equal(mask_of(caption.row, phrase), expected)
            named |= set(things)
        assert named == set(range(len(scene.things)))
        assert re.sub(r"<p> (.*?) </p> \[SEG\]", r"\1", caption.answer()) == caption.caption


def test_a_caption_sample_holds_its_masks_in_the_order_of_its_answer(root, tmp_path) -> None:
    rows = captions(root, grandf_rows, "GranDf_HA_GCG_train.json", "grandf/train")
    inputs = tiny_inputs(tmp_path / "tokenizer")
    dataset = GroundedCaptionDataset(rows=rows, inputs=inputs, mask_size=SIDE)
    for index in range(5):
        sample = dataset[index]
        tokens = inputs.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
        assert tokens.count("[SEG]") == tokens.count("<p>") == tokens.count("</p>")
        assert tokens.count("[SEG]") == len(sample.masks)
        for phrase, mask in zip(rows[index].row.expressions, sample.masks, strict=True):
            np.testing.assert_array_equal(mask[0].numpy(), mask_of(rows[index].row, phrase))


def test_conversations_about_images_videos_and_words_alone(root, scenes, tmp_path) -> None:
    folder = root / "llava_data"
    rows = llava_rows(
        file=folder / "LLaVA-Instruct-150K" / "llava_v1_5_mix665k.json",
        image_root=folder / "llava_images",
    )
    assert [row.source is None for row in rows] == [False] * 40 + [True]
    for row, scene in zip(rows, scenes, strict=False):
        (first, told), (_, counted) = row.turns
        assert first.count("<image>") == 1
        phrases = re.findall(r"a \w+ \w+ \w+", told)
        things = sorted(n for phrase in phrases for n in described(scene, phrase))
        assert things == list(range(len(scene.things)))
        count = {2: "two", 3: "three", 4: "four"}[len(scene.things)]
        assert counted == f"there are {count} shapes ."
    folder = root / "video_datas" / "chat_univi"
    videos = llava_rows(file=folder / "video_chat.json", video_root=folder / "Activity_Videos")
    assert [row.video for row in videos] == [True] * 3
    inputs = tiny_inputs(tmp_path / "tokenizer")
    sample = ChatDataset(rows=videos, inputs=inputs, frames=UniformFrames(num=9))[0]
    assert len(sample.pixel_values) == 4  # every frame of the mp4
    meta = json.loads((root / "video_datas/mevis/train/meta_expressions.json").read_text())
    said = meta["videos"][videos[0].source.stem]["expressions"]["0"]["exp"]
    assert said in videos[0].turns[0][1]


@pytest.mark.parametrize("name", ["conversation", "short_form", "detail_description"])
def test_regions_and_what_is_said_of_them(root, scenes, tmp_path, name) -> None:
    folder = root / "osprey-724k"
    file = folder / "Osprey-724K" / f"osprey_{name}.json"
    rows = osprey_rows(file=file, image_root=folder / "coco")
    inputs = tiny_inputs(tmp_path / "tokenizer")
    dataset = RegionDataset(rows=rows, inputs=inputs)
    for index, (region_row, scene) in enumerate(zip(rows, scenes, strict=True)):
        row = region_row.row
        masks = np.stack([row.read_mask([n], 0, row.size) for n in range(len(row.objects))])
        np.testing.assert_array_equal(masks, scene.masks[0])
        for number, (question, answer) in enumerate(region_row.turns):
            assert "<" not in (question or "") + answer
            if name == "short_form":
                assert answer == scene.things[-1].shape
                assert f"region{len(scene.things)}" in question
            else:
                phrase = re.search(r"a \w+ \w+ \w+", answer)[0]
                assert described(scene, phrase) == [number]
        sample = dataset[index]
        tokens = inputs.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
        assert tokens.count("<vp>") == len(sample.regions) == len(scene.things)
        inside = tokens.count("<IMG_CONTEXT>") - 4  # of the picture itself
        assert inside == int(sample.regions.sum())
