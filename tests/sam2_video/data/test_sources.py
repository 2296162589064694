"""Sources read what hand-written folders hold, and say what is wrong with broken ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from projects.common.video import write_mp4
from projects.sam2_video.data.coco import CocoImageSource
from projects.sam2_video.data.png import PaletteSource, PerObjectSource
from projects.sam2_video.data.sav import SavSource, read_masklets

REAL_EXTRACT = Path(__file__).parents[2] / "assets" / "sav_extract_manual.json"


def write_frames(folder, names, size=(8, 10)):
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = np.full((*size, 3), number * 10, np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=95)


def rle(mask):
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def square(top, left, size=(8, 10)):
    mask = np.zeros(size, bool)
    mask[top : top + 3, left : left + 3] = True
    return mask


# ---- palette PNG -------------------------------------------------------------------------------


@pytest.fixture
def davis(tmp_path):
    names = ["00000.jpg", "00001.jpg", "00002.jpg", "00003.jpg"]
    for video in ("cat", "dog"):
        write_frames(tmp_path / "JPEGImages" / video, names)
        folder = tmp_path / "Annotations" / video
        folder.mkdir(parents=True)
        for stem in ("00001", "00003"):  # two of four frames are annotated
            ids = np.zeros((8, 10), np.uint8)
            ids[square(1, 1)] = 1
            if stem == "00003":
                ids[square(4, 5)] = 2
            image = Image.fromarray(ids, mode="P")
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            image.save(folder / f"{stem}.png")
    (tmp_path / "val.txt").write_text("dog\n\n")
    return tmp_path


def palette_source(root, **options):
    return PaletteSource(
        image_root=root / "JPEGImages", annotation_root=root / "Annotations", **options
    )


def test_palette_videos(davis):
    source = palette_source(davis)
    assert source.names == ["cat", "dog"] and len(source) == 2
    video = source[0]
    assert video.num_frames == 2
    frames = video.read_frames([1, 0])
    assert frames.shape == (2, 8, 10, 3)
    assert frames[:, 0, 0, 0].tolist() == pytest.approx([30, 10], abs=2)
    first, second = video.read_masks(0), video.read_masks(1)
    assert sorted(first) == [1] and sorted(second) == [1, 2]
    assert np.array_equal(second[2], square(4, 5)) and np.array_equal(first[1], square(1, 1))


def test_file_lists_choose_videos(davis):
    assert palette_source(davis, list_file=davis / "val.txt").names == ["dog"]
    (davis / "bad.txt").write_text("dog\nfox\n")
    with pytest.raises(FileNotFoundError, match=r"2 video folders missing.*\n.*fox"):
        palette_source(davis, list_file=davis / "bad.txt")
    (davis / "twice.txt").write_text("dog\ndog\n")
    with pytest.raises(ValueError, match="more than once"):
        palette_source(davis, list_file=davis / "twice.txt")
    with pytest.raises(FileNotFoundError, match="nothere.txt"):
        palette_source(davis, list_file=davis / "nothere.txt")


def test_a_mask_without_its_frame_is_named(davis):
    (davis / "JPEGImages" / "cat" / "00003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"cat.*\n.*00003"):
        palette_source(davis)[0]


def test_a_video_without_masks_is_found_at_load(davis):
    for path in (davis / "Annotations" / "cat").glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"hold no .*cat"):
        palette_source(davis)


def test_a_broken_png_names_its_file(davis):
    path = davis / "Annotations" / "dog" / "00001.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="00001.png"):
        palette_source(davis)[1].read_masks(0)


# ---- per-object PNG ----------------------------------------------------------------------------


def test_per_object_videos(tmp_path):
    write_frames(tmp_path / "frames" / "a", [f"{i:05d}.jpg" for i in range(9)])
    for key, stems in (("000", ("00000", "00004", "00008")), ("001", ("00004",))):
        folder = tmp_path / "masks" / "a" / key
        folder.mkdir(parents=True)
        for stem in stems:
            mask = square(int(stem) // 2, int(key) * 3).astype(np.uint8) * 255
            Image.fromarray(mask).save(folder / f"{stem}.png")
    source = PerObjectSource(image_root=tmp_path / "frames", annotation_root=tmp_path / "masks")
    video = source[0]
    assert video.stems == ["00000", "00004", "00008"] and video.frame_indices == [0, 4, 8]
    assert sorted(video.read_masks(0)) == [0] and sorted(video.read_masks(1)) == [0, 1]
    assert np.array_equal(video.read_masks(1)[1], square(2, 3))
    assert video.read_frames([2])[0, 0, 0, 0] == pytest.approx(80, abs=2)


# ---- SA-V --------------------------------------------------------------------------------------


def write_sav(root, masklets, name="sav_000001"):
    record = {"video_id": name, "masklet": masklets, "masklet_id": [0, 1]}
    (root / f"{name}_manual.json").write_text(json.dumps(record))


@pytest.fixture
def sav(tmp_path):
    masklets = [[rle(square(step, 0)), rle(square(0, step))] for step in range(3)]
    write_sav(tmp_path, masklets)
    write_frames(tmp_path / "sav_000001", [f"{i:05d}.jpg" for i in range(11)])
    return tmp_path


def test_sav_masks_lie_on_every_fourth_frame(sav):
    video = SavSource(annotation_root=sav, frame_root=sav)[0]
    assert video.num_frames == 3
    frames = video.read_frames([0, 1, 2])
    assert frames[:, 0, 0, 0].tolist() == pytest.approx([0, 40, 80], abs=2)
    for step in range(3):
        masks = video.read_masks(step)
        assert np.array_equal(masks[0], square(step, 0))
        assert np.array_equal(masks[1], square(0, step))


def test_sav_frames_extracted_sparsely_keep_their_numbers(sav):
    for path in sorted((sav / "sav_000001").iterdir()):
        if int(path.stem) % 4 or path.stem == "00004":
            path.unlink()
    video = SavSource(annotation_root=sav, frame_root=sav)[0]
    assert video.num_frames == 2  # frames 0 and 8
    assert np.array_equal(video.read_masks(1)[0], square(2, 0))


def test_sav_frames_that_were_renumbered_are_refused(sav):
    for path in sorted((sav / "sav_000001").iterdir())[3:]:
        path.unlink()  # 00000, 00001, 00002 for three annotated frames
    with pytest.raises(ValueError, match="renumbered"):
        SavSource(annotation_root=sav, frame_root=sav)[0]
    assert SavSource(annotation_root=sav, frame_root=sav, ann_every=1)[0].num_frames == 3


def test_sav_reads_mp4_where_no_frames_are_extracted(tmp_path):
    write_sav(tmp_path, [[rle(square(0, 0, (64, 96))), None], [None, rle(square(4, 4, (64, 96)))]])
    frames = [np.full((64, 96, 3), 20 + 20 * i, np.uint8) for i in range(8)]
    write_mp4(tmp_path / "sav_000001.mp4", frames, 24)
    video = SavSource(annotation_root=tmp_path, frame_root=tmp_path, rm_unannotated=False)[0]
    assert video.num_frames == 2
    brightness = video.read_frames([0, 1]).mean((1, 2, 3))
    assert brightness.tolist() == pytest.approx([20, 100], abs=6)
    assert sorted(video.read_masks(0)) == [0] and sorted(video.read_masks(1)) == [1]


def test_broken_sav_files_name_file_and_record(sav):
    path = sav / "sav_000001_manual.json"
    record = json.loads(path.read_text())
    record["masklet"][1][0]["counts"] = record["masklet"][1][0]["counts"][:-2]
    path.write_text(json.dumps(record))
    video = SavSource(annotation_root=sav, frame_root=sav)[0]
    with pytest.raises(ValueError, match=r"sav_000001_manual.json, masklet\[1\]\[0\]"):
        video.read_masks(1)
    path.write_text('{"video_id": 1}')
    with pytest.raises(ValueError, match="'masklet'"):
        SavSource(annotation_root=sav, frame_root=sav)[0]
    path.write_text('{"masklet": [[1, 2], [1]]}')
    with pytest.raises(ValueError, match="unequal numbers of objects"):
        read_masklets(path)
    path.write_text('{"masklet": [')
    with pytest.raises(ValueError, match="not valid json"):
        read_masklets(path)
    with pytest.raises(FileNotFoundError, match=r"1 videos .* missing.*\n.*nowhere"):
        SavSource(annotation_root=sav, frame_root=sav / "nowhere")


def test_the_real_annotation_reads(tmp_path):
    """An extract of a file of SA-V (CC BY 4.0, Meta): the first and last frames of 121."""
    write_frames(tmp_path / "sav_extract", ["00000.jpg", "00004.jpg", "00008.jpg"], (848, 480))
    video = SavSource(annotation_root=REAL_EXTRACT.parent, frame_root=tmp_path)[0]
    record = json.loads(REAL_EXTRACT.read_text())
    assert video.num_frames == 3
    for step in range(3):
        masks = video.read_masks(step)
        assert sorted(masks) == [0, 1, 2, 3, 4]
        for key, mask in masks.items():
            assert np.array_equal(mask, coco.decode(record["masklet"][step][key]).astype(bool))
    areas = {key: int(mask.sum()) for key, mask in video.read_masks(0).items()}
    assert areas[3] == 0 and all(areas[key] > 100 for key in (0, 1, 2, 4))


# ---- COCO images -------------------------------------------------------------------------------


@pytest.fixture
def refcoco(tmp_path):
    write_frames(tmp_path / "images", ["1.jpg", "2.jpg", "3.jpg"])
    polygon = [[1, 1, 6, 1, 6, 5, 1, 5]]
    annotations = [
        {"id": 10, "image_id": 1, "iscrowd": 0, "segmentation": polygon},
        {"id": 11, "image_id": 1, "iscrowd": 1, "segmentation": rle(square(0, 0))},
        {"id": 12, "image_id": 2, "iscrowd": 0, "segmentation": rle(square(2, 2))},
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 8, "width": 10} for i in (1, 2, 3)]
    (tmp_path / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )
    refs = [{"image_id": 1, "split": "train"}, {"image_id": 2, "split": "val"}]
    (tmp_path / "refs.p").write_bytes(pickle.dumps(refs))
    return tmp_path


def coco_source(root, **options):
    return CocoImageSource(
        annotation_file=root / "instances.json", image_root=root / "images", **options
    )


def test_coco_images_are_videos_of_one_frame(refcoco):
    source = coco_source(refcoco)
    assert source.image_ids == [1, 2]  # the third has no annotation
    image = source[0]
    assert image.num_frames == 1 and image.read_frames([0]).shape == (1, 8, 10, 3)
    masks = image.read_masks(0)
    polygon = coco.decode(coco.merge(coco.frPyObjects([[1, 1, 6, 1, 6, 5, 1, 5]], 8, 10)))
    assert sorted(masks) == [10] and np.array_equal(masks[10], polygon.astype(bool))
    crowd = coco_source(refcoco, include_crowd=True)[0].read_masks(0)
    assert np.array_equal(crowd[11], square(0, 0))


def test_images_of_other_splits_are_not_trained_on(refcoco):
    assert coco_source(refcoco, refs_file=refcoco / "refs.p").image_ids == [1]
    assert coco_source(refcoco, refs_file=refcoco / "refs.p", splits=["val"]).image_ids == [2]
    with pytest.raises(ValueError, match=r"no split \['test'\].*\['train', 'val'\]"):
        coco_source(refcoco, refs_file=refcoco / "refs.p", splits=["test"])


def test_broken_coco_files_name_file_and_record(refcoco):
    path = refcoco / "instances.json"
    record = json.loads(path.read_text())
    record["annotations"][0]["segmentation"] = [[1, 1, 6]]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"instances.json, annotation 10"):
        coco_source(refcoco)[0].read_masks(0)
    del record["annotations"][0]["segmentation"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"instances.json, annotation 10: expected a list"):
        coco_source(refcoco)[0].read_masks(0)
    record["annotations"][0]["image_id"] = 99
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="annotation 10 is of image 99"):
        coco_source(refcoco)
    path.write_text("[]")
    with pytest.raises(ValueError, match="instances.json"):
        coco_source(refcoco)
    (refcoco / "images" / "1.jpg").unlink()
    path.write_text(json.dumps(record | {"annotations": record["annotations"][1:]}))
    with pytest.raises(FileNotFoundError, match=r"1 images missing.*\n.*1.jpg"):
        coco_source(refcoco, include_crowd=True)
