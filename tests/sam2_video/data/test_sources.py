"""Sources read what hand-written folders hold, and say what is wrong with broken ones."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from projects.common import registry
from projects.common.video import write_mp4
from projects.sam2_video.data.coco import CocoImageSource
from projects.sam2_video.data.coco_video import CocoVideoSource
from projects.sam2_video.data.dataset import ClipDataset
from projects.sam2_video.data.folders import FolderSource, ImageFolderSource
from projects.sam2_video.data.inspection import inspect_video
from projects.sam2_video.data.png import PaletteSource, PerObjectSource
from projects.sam2_video.data.sa1b import Sa1bSource
from projects.sam2_video.data.samplers import EverythingSampler
from projects.sam2_video.data.sav import SavSource, read_masklets, read_video_objects
from tests.sam2_video.data.files import rle, square, write_frames

REAL_EXTRACT = Path(__file__).parents[2] / "assets" / "sav_extract_manual.json"


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


@pytest.mark.parametrize("text", [b"dog\r\n\r\n  \r\n", b"\xef\xbb\xbfdog\n", b"\n dog.MP4 \n"])
def test_lists_of_any_editor(davis, text):
    (davis / "val.txt").write_bytes(text)
    assert palette_source(davis, list_file=davis / "val.txt").names == ["dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\r\n \r\n", "list.txt names no video"),
        (b"caf\xe9\n", "list.txt is no UTF-8 text"),
        (b"../JPEGImages/dog\n", "list.txt: '../JPEGImages/dog' leads out of its folder"),
        (b"/etc\n", "list.txt: '/etc' leads out"),
    ],
)
def test_lists_that_name_nothing_of_ours(davis, text, message):
    (davis / "list.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        palette_source(davis, list_file=davis / "list.txt")


def test_hidden_folders_are_no_videos(davis):
    (davis / "Annotations" / ".ipynb_checkpoints").mkdir()
    assert palette_source(davis).names == ["cat", "dog"]


def test_exclusion_lists_leave_videos_out(davis):
    (davis / "first.txt").write_text("dog.mp4\nnot here\n")
    (davis / "second.txt").write_text("cat\n")
    assert palette_source(davis, exclude_file=davis / "first.txt").names == ["cat"]
    lists = [davis / "first.txt", davis / "second.txt"]
    with pytest.raises(ValueError, match="leave none of 2 videos"):
        palette_source(davis, exclude_file=lists)
    with pytest.raises(FileNotFoundError, match="nothere.txt"):
        palette_source(davis, exclude_file=davis / "nothere.txt")


def test_a_dot_in_a_video_name_is_no_suffix(davis):
    for root in ("JPEGImages", "Annotations"):
        (davis / root / "dog").rename(davis / root / "dog.v2")
    (davis / "val.txt").write_text("dog.v2\n")
    assert palette_source(davis, list_file=davis / "val.txt")[0].num_frames == 2


def test_palette_frames_may_be_png_and_ids_of_any_object(davis):
    for path in (davis / "JPEGImages" / "cat").iterdir():
        Image.open(path).save(path.with_suffix(".PNG"))
        path.unlink()
    video = palette_source(davis)[0]
    assert video.read_frames([1]).shape == (1, 8, 10, 3)
    assert video.visible_objects(0) == [1] and video.visible_objects(1) == [1, 2]
    assert not video.read_masks(0, [2])[2].any()  # asked for, absent


def test_void_pixels_are_no_object(davis):
    path = davis / "Annotations" / "dog" / "00001.png"
    ids = np.array(Image.open(path))
    ids[0] = 255
    Image.fromarray(ids).save(path)
    assert palette_source(davis)[1].visible_objects(0) == [1]


def test_a_mask_without_its_frame_is_named(davis):
    (davis / "JPEGImages" / "cat" / "00003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"cat.*\n.*00003"):
        palette_source(davis)[0]


def test_a_video_without_masks_is_found_at_load(davis):
    for path in (davis / "Annotations" / "cat").glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"1 of 2 folders of .* hold no <frame>.png, .*cat"):
        palette_source(davis)
    roots = dict(image_root=davis / "JPEGImages", annotation_root=davis / "Annotations")
    with pytest.raises(ValueError, match=r"no <object>/<frame>.png.*PaletteSource: <frame>.png"):
        PerObjectSource(**roots)


def test_a_broken_png_names_its_file(davis):
    path = davis / "Annotations" / "dog" / "00001.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="00001.png"):
        palette_source(davis)[1].read_masks(0)


@pytest.mark.parametrize(
    "source",
    [SavSource, Sa1bSource, PaletteSource, PerObjectSource, FolderSource, ImageFolderSource]
    + [CocoImageSource, CocoVideoSource],
)
def test_the_check_of_a_config_looks_for_every_list(source, tmp_path):
    places = {
        name: str(tmp_path)
        for name, parameter in inspect.signature(source).parameters.items()
        if parameter.default is inspect.Parameter.empty
    }
    lists = dict(list_file="a.txt", exclude_file=["b.txt", "c.txt"])
    assert registry.mistakes(dict(type=source, **places, **lists)) == [
        "list_file: a.txt does not exist",
        "exclude_file[0]: b.txt does not exist",
        "exclude_file[1]: c.txt does not exist",
    ]
    found = registry.mistakes(dict(type=source, **places, exclude_file="b.txt"))
    assert found == ["exclude_file: b.txt does not exist"]


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


@pytest.mark.parametrize("suffix", [".png", ".PNG"])
def test_objects_have_one_folder_named_by_a_number(tmp_path, suffix):
    write_frames(tmp_path / "frames" / "a", ["00000.jpg"])

    def add(name: str) -> PerObjectSource:
        folder = tmp_path / "masks" / "a" / name
        folder.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(square(0, 0).astype(np.uint8) * 255)
        mask.save((folder / "00000.png").with_suffix(suffix))
        return PerObjectSource(image_root=tmp_path / "frames", annotation_root=tmp_path / "masks")

    assert add("255")[0].visible_objects(0) == [255]  # an id like any other here
    assert add("001")[0].visible_objects(0) == [1, 255]
    (tmp_path / "masks" / "a" / ".cache").mkdir()
    (tmp_path / "masks" / "a" / "notes").mkdir()  # without masks
    assert add("001")[0].visible_objects(0) == [1, 255]
    with pytest.raises(ValueError, match="masks/a: 001 and 1 are one object"):
        add("1")
    (tmp_path / "masks" / "a" / "1").rename(tmp_path / "masks" / "a" / "dog")
    with pytest.raises(ValueError, match="a/dog: folders of masks are named by the number"):
        add("002")


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
    (sav / "sav_000001" / "00002.jpg").unlink()  # and cut off
    with pytest.raises(ValueError, match="2 frames numbered without gaps for 3 annotated"):
        SavSource(annotation_root=sav, frame_root=sav)[0]
    with pytest.raises(ValueError, match="kind manual or auto, got 4, 'manaul'"):
        SavSource(annotation_root=sav, frame_root=sav, kind="manaul")


@pytest.mark.parametrize(
    ("kept", "cut_off"),
    [
        (range(11), False),
        (range(9), False),  # the last frame is annotated
        (range(8), True),
        ([0, 4], True),
        ([0, 4, 8], False),
        ([0], True),
        (range(0, 11, 8), False),
    ],
)
def test_annotations_behind_the_last_frame_are_a_problem(sav, kept, cut_off):
    for path in (sav / "sav_000001").iterdir():
        if int(path.stem) not in kept:
            path.unlink()
    video = SavSource(annotation_root=sav, frame_root=sav)[0]  # trains all the same
    assert bool(video.problems) == cut_off == bool(inspect_video(video).problems)
    if cut_off:
        assert "3 annotated frames, the last one is 8, but" in video.problems[0]


def test_sav_reads_mp4_where_no_frames_are_extracted(tmp_path):
    write_sav(tmp_path, [[rle(square(0, 0, (64, 96))), None], [None, rle(square(4, 4, (64, 96)))]])
    frames = [np.full((64, 96, 3), 20 + 20 * i, np.uint8) for i in range(8)]
    write_mp4(tmp_path / "sav_000001.mp4", frames, 24)
    video = SavSource(annotation_root=tmp_path, frame_root=tmp_path, rm_unannotated=False)[0]
    assert video.num_frames == 2
    brightness = video.read_frames([0, 1]).mean((1, 2, 3))
    assert brightness.tolist() == pytest.approx([20, 100], abs=6)
    assert sorted(video.read_masks(0)) == [0] and sorted(video.read_masks(1)) == [1]


def test_frames_that_are_not_annotated_for_all_objects(sav):
    """null is not annotated, an empty mask is absent."""
    empty = rle(np.zeros((8, 10), bool))
    masklets = [[rle(square(0, 0)), empty], [rle(square(1, 0)), None], [None, rle(square(2, 0))]]
    write_sav(sav, masklets)
    strict = SavSource(annotation_root=sav, frame_root=sav)[0]
    assert strict.num_frames == 1 and strict.visible_objects(0) == [0]
    assert sorted(strict.read_masks(0)) == [0, 1]
    lenient = SavSource(annotation_root=sav, frame_root=sav, rm_unannotated=False)[0]
    assert lenient.num_frames == 3
    assert [lenient.visible_objects(i) for i in range(3)] == [[0], [0], [1]]
    write_sav(sav, [None, [rle(square(1, 0)), rle(square(0, 0))], None])
    assert SavSource(annotation_root=sav, frame_root=sav)[0].frame_indices == [4]
    write_sav(sav, [[None, empty]])
    with pytest.raises(ValueError, match="none of the 11 frames .* rm_unannotated=False"):
        SavSource(annotation_root=sav, frame_root=sav)[0]


def test_object_lists_choose_videos_and_objects(sav):
    path = sav / "objects.txt"
    path.write_text("sav_000001 1\nsav_000002 0\n")
    source = SavSource(annotation_root=sav, frame_root=sav, objects_file=path)
    assert source.names == ["sav_000001"]
    assert source[0].visible_objects(0) == [1] and sorted(source[0].read_masks(0)) == [1]
    assert source[0].read_masks(0, [0]) == {}
    path.write_text("sav_000001 2\n")
    with pytest.raises(ValueError, match=r"no objects \[2\], it has 2"):
        SavSource(annotation_root=sav, frame_root=sav, objects_file=path)[0]
    path.write_text("sav_000009 2\n")
    with pytest.raises(ValueError, match="names none of the videos"):
        SavSource(annotation_root=sav, frame_root=sav, objects_file=path)
    path.write_text("sav_000001\n")
    with pytest.raises(ValueError, match="objects.txt, line 1: 'sav_000001' is not"):
        read_video_objects(path)


def test_the_folders_of_the_archives_are_found(sav):
    (sav / "sav_000").mkdir()
    (sav / "sav_000001_manual.json").rename(sav / "sav_000" / "sav_000001_manual.json")
    (sav / "frames" / "sav_000").mkdir(parents=True)
    (sav / "sav_000001").rename(sav / "frames" / "sav_000" / "sav_000001")
    source = SavSource(annotation_root=sav, frame_root=sav / "frames")
    assert source.names == ["sav_000001"] and source[0].num_frames == 3
    (sav / "out.txt").write_text("sav_000001\n")
    with pytest.raises(ValueError, match="leave none of 1 videos"):
        SavSource(annotation_root=sav, frame_root=sav, exclude_file=sav / "out.txt")


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
    path.write_text('{"masklet": [[1], {"0": 1}]}')
    with pytest.raises(ValueError, match=r"masklet\[1\] is no list of objects"):
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
        assert video.visible_objects(step) == [key for key in masks if masks[key].any()]
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


def test_categories_are_counted_from_0_in_the_order_of_their_ids(refcoco):
    dataset = ClipDataset(source=coco_source(refcoco, include_crowd=True), sampler=EverythingSampler())
    assert [dataset[i].categories for i in range(2)] == [None, None]  # the file has none

    path = refcoco / "instances.json"
    record = json.loads(path.read_text())
    for annotation, category in zip(record["annotations"], (90, 7, 33), strict=True):
        annotation["category_id"] = category
    path.write_text(json.dumps(record))

    def leave_out_first(clip, rng):  # as a transform that moves an object out of the frame
        clip.masks[:, 0] = False
        return clip

    source = coco_source(refcoco, include_crowd=True)
    whole = ClipDataset(source=source, sampler=EverythingSampler())
    assert (whole[0].object_ids, whole[0].categories) == ([10, 11], [2, 0])
    assert (whole[1].object_ids, whole[1].categories) == ([12], [1])
    cut = ClipDataset(source=source, sampler=EverythingSampler(), transforms=[leave_out_first])
    assert (cut[0].object_ids, cut[0].categories) == ([11], [0])


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


def test_lists_choose_images(refcoco):
    (refcoco / "list.txt").write_text("2.jpg\n")
    assert coco_source(refcoco, list_file=refcoco / "list.txt").image_ids == [2]
    assert coco_source(refcoco, exclude_file=refcoco / "list.txt").names == ["1"]
    (refcoco / "list.txt").write_text("3\n")
    with pytest.raises(FileNotFoundError, match="they have no annotation"):
        coco_source(refcoco, list_file=refcoco / "list.txt")


def test_a_missing_key_is_named_with_its_record(refcoco):
    path = refcoco / "instances.json"
    record = json.loads(path.read_text())
    del record["images"][0]["width"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"instances.json, image 1: no 'width'; polygons"):
        coco_source(refcoco)[0]
    refs = [{"image_id": 1, "split": "train"}, {"image_id": 2}]
    (refcoco / "refs.p").write_bytes(pickle.dumps(refs))
    with pytest.raises(ValueError, match=r"refs.p, ref 1: no 'split'"):
        coco_source(refcoco, refs_file=refcoco / "refs.p")


def test_broken_coco_files_name_file_and_record(refcoco):
    path = refcoco / "instances.json"
    record = json.loads(path.read_text())
    record["annotations"][0]["segmentation"] = [[1, 1, 6]]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"instances.json, annotation 10"):
        coco_source(refcoco)[0].read_masks(0)
    del record["annotations"][0]["segmentation"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"instances.json, annotation 10: no segmentation"):
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
