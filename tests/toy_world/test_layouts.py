"""Every layout, read back with the plain tools of its format, holds the scene that was drawn."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from transformers import AutoTokenizer

from projects.toy_world.expressions import write_expressions
from projects.toy_world.generate import generate
from projects.toy_world.scene import Scene, SceneSpec, sample_scene
from projects.toy_world.world import World

WORLD = World(
    seed=11,
    sizes={
        "refcoco_train": 30,
        "refcoco_val": 5,
        "refcoco_testA": 12,
        "refcoco_testB": 12,
        "mevis_train": 16,
        "mevis_valid_u": 4,
        "sav_train": 3,
        "sav_val": 2,
        "davis_train": 3,
        "davis_val": 2,
    },
)
# The keys of a real file of SA-V (sav_000001_manual.json).
SAV_KEYS = """video_id video_duration video_frame_count video_height video_width video_resolution
video_environment video_split masklet masklet_id masklet_size_rel masklet_size_abs
masklet_size_bucket masklet_visibility_changes masklet_first_appeared_frame masklet_frame_count
masklet_edited_frame_count masklet_type masklet_stability_score masklet_num""".split()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world") / "toy"
    generate(WORLD, out)
    return out


@pytest.fixture(scope="module")
def labels(root: Path) -> dict:
    return json.loads((root / "toy_world.json").read_text())["labels"]


def jpeg(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "JPEG"
        return np.array(image)


def close(read: np.ndarray, drawn: np.ndarray) -> bool:
    return read.shape == drawn.shape and np.abs(read.astype(int) - drawn).mean() < 6


def coco_mask(annotation: dict, height: int, width: int) -> np.ndarray:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = coco.merge(coco.frPyObjects(segmentation, height, width))
    return coco.decode(segmentation).astype(bool)


@pytest.fixture(scope="module")
def refcoco(root: Path):
    folder = root / "refer_seg" / "refcoco"
    instances = json.loads((folder / "instances.json").read_text())
    return instances, pickle.loads((folder / "refs(unc).p").read_bytes())


def test_refcoco_images_and_masks(root: Path, refcoco) -> None:
    instances, refs = refcoco
    assert len(instances["images"]) == 59
    assert instances["images"][0]["file_name"] == "COCO_train2014_000000000001.jpg"
    assert {c["name"] for c in instances["categories"]} == {"circle", "square", "triangle", "star"}
    by_image = {i["id"]: [] for i in instances["images"]}
    for annotation in instances["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    names = {c["id"]: c["name"] for c in instances["categories"]}
    for number, image in enumerate(instances["images"][:30]):
        rng = WORLD.generator("refcoco", "train", number)
        scene = sample_scene(rng, SceneSpec())
        expressions = write_expressions(rng, scene, 4, WORLD.image_families)
        pixels = jpeg(root / "coco2014" / "train2014" / image["file_name"])
        assert pixels.shape == (image["height"], image["width"], 3)
        assert close(pixels, scene.frames[0])
        annotations = by_image[image["id"]]
        single = [a for a in annotations if not a["iscrowd"]]
        assert [names[a["category_id"]] for a in single] == [t.shape for t in scene.things]
        for annotation, mask in zip(single, scene.masks[0], strict=True):
            np.testing.assert_array_equal(coco_mask(annotation, 128, 128), mask)
            assert annotation["area"] == mask.sum()
            x, y, w, h = annotation["bbox"]
            assert mask[y : y + h, x : x + w].sum() == mask.sum()
        said = {
            sentence["sent"]: coco_mask(annotations_by_id(annotations)[ref["ann_id"]], 128, 128)
            for ref in refs
            if ref["image_id"] == image["id"]
            for sentence in ref["sentences"]
        }
        assert set(said) == {e.text for e in expressions}
        for expression in expressions:
            target = scene.masks[0, list(expression.targets)].any(axis=0)
            np.testing.assert_array_equal(said[expression.text], target)


def annotations_by_id(annotations: list[dict]) -> dict[int, dict]:
    return {annotation["id"]: annotation for annotation in annotations}


def test_refcoco_refs_have_the_fields_and_ids_of_the_original(refcoco, labels) -> None:
    instances, refs = refcoco
    by_id = annotations_by_id(instances["annotations"])
    sent_ids = []
    for ref in refs:
        assert set(ref) == {
            *("ref_id", "ann_id", "image_id", "file_name", "category_id", "split"),
            *("sent_ids", "sentences"),
        }
        annotation = by_id[ref["ann_id"]]
        assert annotation["image_id"] == ref["image_id"]
        assert annotation["category_id"] == ref["category_id"]
        assert ref["file_name"] == f"COCO_train2014_{ref['image_id']:012d}_{ref['ann_id']}.jpg"
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
        sent_ids += ref["sent_ids"]
        for sentence in ref["sentences"]:
            assert sentence["tokens"] == sentence["sent"].split()
            assert sentence["raw"].lower() == sentence["sent"]
            plural = "several" in labels["refcoco"][str(sentence["sent_id"])]["uses"]
            assert plural == bool(annotation["iscrowd"])
            assert plural <= isinstance(annotation["segmentation"], dict)
    assert len(by_id) == len(instances["annotations"])
    assert len({ref["ref_id"] for ref in refs}) == len(refs)
    assert len(set(sent_ids)) == len(sent_ids) and {str(i) for i in sent_ids} == set(
        labels["refcoco"]
    )
    assert sum(by_id[ref["ann_id"]]["iscrowd"] for ref in refs) >= 5


def test_refcoco_splits_are_disjoint_and_differ_as_documented(refcoco) -> None:
    instances, refs = refcoco
    images = {
        split: {r["image_id"] for r in refs if r["split"] == split}
        for split in ("train", "val", "testA", "testB")
    }
    assert {split: len(ids) for split, ids in images.items()} == {
        "train": 30,
        "val": 5,
        "testA": 12,
        "testB": 12,
    }
    assert sum(map(len, images.values())) == len(set().union(*images.values()))
    for split, twins in (("testA", False), ("testB", True)):
        for number in range(12):
            spec = SceneSpec(twins=(0.6, 0.2, 0.2) if twins else (0, 0, 0))
            scene = sample_scene(WORLD.generator("refcoco", split, number), spec)
            colours = [thing.colour for thing in scene.things]
            assert (len(set(colours)) < len(colours)) == twins


@pytest.mark.parametrize(("split", "count"), [("train", 16), ("valid_u", 4)])
def test_mevis(root: Path, labels, split: str, count: int) -> None:
    folder = root / "video_datas" / "mevis" / split
    meta = json.loads((folder / "meta_expressions.json").read_text())["videos"]
    masks = json.loads((folder / "mask_dict.json").read_text())
    assert len(meta) == count
    used, absent = set(), 0
    for number, (name, video) in enumerate(meta.items()):
        rng = WORLD.generator("mevis", split, number)
        assert name == rng.bytes(6).hex()
        scene = sample_scene(rng, SceneSpec(frames=6))
        expressions = write_expressions(rng, scene, 5, WORLD.video_families)
        assert video["frames"] == [f"{t:05d}" for t in range(6)]
        for t, frame in enumerate(video["frames"]):
            assert close(jpeg(folder / "JPEGImages" / name / f"{frame}.jpg"), scene.frames[t])
        assert [e["exp"] for e in video["expressions"].values()] == [e.text for e in expressions]
        assert set(labels["mevis"][name]) == set(video["expressions"])
        for key, entry in video["expressions"].items():
            assert labels["mevis"][name][key]["uses"] == list(expressions[int(key)].uses)
            assert len(entry["anno_id"]) == len(entry["obj_id"]) >= 1
            for anno_id, obj_id in zip(entry["anno_id"], entry["obj_id"], strict=True):
                assert obj_id in expressions[int(key)].targets
                check_track(masks[str(anno_id)], scene, obj_id)
                used.add(anno_id)
        absent += sum(not mask.any() for mask in scene.masks.reshape(-1, 128, 128))
    assert sorted(map(int, masks)) == list(range(len(masks))) and used <= set(range(len(masks)))
    assert sum(rle is None for track in masks.values() for rle in track) == absent
    assert absent > 0 or split == "valid_u"


def check_track(track: list[dict | None], scene: Scene, thing: int) -> None:
    assert len(track) == len(scene.frames)
    for t, rle in enumerate(track):
        if rle is None:
            assert not scene.masks[t, thing].any()
        else:
            np.testing.assert_array_equal(coco.decode(rle).astype(bool), scene.masks[t, thing])


def sav_scene(split: str, index: int) -> Scene:
    return sample_scene(WORLD.generator("sav", split, index), SceneSpec(frames=32, rate=0.25))


def test_sav_train(root: Path) -> None:
    folder = root / "SA-V" / "train"
    assert sorted(p.stem for p in folder.glob("*.mp4")) == [f"sav_{n:06d}" for n in range(3)]
    for number in range(3):
        scene, name = sav_scene("train", number), f"sav_{number:06d}"
        manual = json.loads((folder / f"{name}_manual.json").read_text())
        assert list(manual) == SAV_KEYS
        count = len(scene.things)
        for key, value in manual.items():
            if key.startswith("masklet_") and isinstance(value, list):
                assert len(value) == count, key
        assert (manual["video_id"], manual["masklet_num"]) == (name, count)
        assert manual["video_frame_count"] == 32 and manual["video_duration"] == pytest.approx(
            4 / 3
        )
        assert len(manual["masklet"]) == 8
        decoded = np.array(
            [[coco.decode(rle).astype(bool) for rle in row] for row in manual["masklet"]]
        )
        np.testing.assert_array_equal(decoded, scene.masks[::4])
        area = decoded.sum(axis=(2, 3))
        for n in range(count):
            shown = np.flatnonzero(area[:, n])
            assert manual["masklet_first_appeared_frame"][n] == shown[0]
            assert manual["masklet_size_abs"][n] == pytest.approx(area[shown, n].mean())
            assert manual["masklet_size_rel"][n] == pytest.approx(area[shown, n].mean() / 128**2)
        assert len(list((folder / name).iterdir())) == 32
        video = cv2.VideoCapture(str(folder / f"{name}.mp4"))
        assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(24)
        for t in range(32):
            assert close(jpeg(folder / name / f"{t:05d}.jpg"), scene.frames[t])
            assert close(video.read()[1][..., ::-1], scene.frames[t])
        assert not video.read()[0], "the video has more frames than its folder"


def test_sav_val(root: Path) -> None:
    folder = root / "SA-V" / "sav_val"
    names = (root / "SA-V" / "sav_val.txt").read_text().splitlines()
    assert names == ["sav_500000", "sav_500001"]
    for number, name in enumerate(names):
        scene = sav_scene("val", number)
        assert len(list((folder / "JPEGImages_24fps" / name).iterdir())) == 32
        assert close(jpeg(folder / "JPEGImages_24fps" / name / "00021.jpg"), scene.frames[21])
        objects = sorted((folder / "Annotations_6fps" / name).iterdir())
        assert [o.name for o in objects] == [f"{n:03d}" for n in range(len(scene.things))]
        for n, path in enumerate(objects):
            files = sorted(path.iterdir())
            assert [f.name for f in files] == [f"{t:05d}.png" for t in range(0, 32, 4)]
            for file in files:
                with Image.open(file) as image:
                    mask = np.array(image) > 0
                np.testing.assert_array_equal(mask, scene.masks[int(file.stem), n])


def test_davis(root: Path) -> None:
    folder = root / "DAVIS"
    listed = {
        split: (folder / "ImageSets" / f"{split}.txt").read_text().splitlines()
        for split in ("train", "val")
    }
    assert (len(listed["train"]), len(listed["val"])) == (3, 2)
    assert Counter(listed["train"] + listed["val"]) == Counter(
        p.name for p in (folder / "JPEGImages").iterdir()
    )
    for split, names in listed.items():
        for number, name in enumerate(names):
            spec = SceneSpec(frames=8, seen_at_start=True)
            scene = sample_scene(WORLD.generator("davis", split, number), spec)
            for t in range(8):
                assert close(jpeg(folder / "JPEGImages" / name / f"{t:05d}.jpg"), scene.frames[t])
                with Image.open(folder / "Annotations" / name / f"{t:05d}.png") as image:
                    assert image.mode == "P" and image.getpalette()[3:6] == [128, 0, 0]
                    ids = np.array(image)
                assert set(np.unique(ids)) <= set(range(len(scene.things) + 1))
                for n, mask in enumerate(scene.masks[t]):
                    np.testing.assert_array_equal(ids == n + 1, mask)
            first = np.array(Image.open(folder / "Annotations" / name / "00000.png"))
            assert set(np.unique(first)) == set(range(len(scene.things) + 1))


def test_no_expression_has_an_unknown_word(root: Path, refcoco) -> None:
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    texts = [sentence["sent"] for ref in refcoco[1] for sentence in ref["sentences"]]
    for path in root.glob("video_datas/mevis/*/meta_expressions.json"):
        for video in json.loads(path.read_text())["videos"].values():
            texts += [entry["exp"] for entry in video["expressions"].values()]
    assert len(texts) > 300
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.split()) and tokenizer.unk_token_id not in ids, text
