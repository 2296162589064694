"""Videos in a COCO json."""

from __future__ import annotations

import json

import numpy as np
import pytest

from projects.sam2_video.data.coco_video import CocoVideoSource
from tests.sam2_video.data.files import rle, square, write_frames


def record():
    """Video 7 of three frames, out of order in the file, and video 9 of one."""
    images = [
        {"id": 3, "file_name": "a/2.png", "video_id": 7, "order_in_video": 2},
        {"id": 1, "file_name": "a/0.png", "video_id": 7, "order_in_video": 0},
        {"id": 2, "file_name": "a/1.png", "video_id": 7, "order_in_video": 1},
        {"id": 4, "file_name": "b/0.png", "video_id": 9, "order_in_video": 0},
    ]
    polygon = [[1, 1, 6, 1, 6, 5, 1, 5]]
    annotations = [
        {"id": 10, "image_id": 1, "track_id": 5, "segmentation": rle(square(0, 0))},
        {"id": 11, "image_id": 2, "track_id": 5, "segmentation": rle(square(1, 1))},
        {"id": 12, "image_id": 2, "track_id": 6, "segmentation": polygon},
        {"id": 13, "image_id": 3, "track_id": 6, "segmentation": rle(square(4, 4))},
        {"id": 14, "image_id": 4, "track_id": 1, "segmentation": rle(square(4, 4))},
    ]
    sized = [image | {"height": 8, "width": 10} for image in images]
    return {"images": sized, "annotations": annotations}


@pytest.fixture
def root(tmp_path):
    write_frames(tmp_path / "a", ["0.png", "1.png", "2.png"])
    write_frames(tmp_path / "b", ["0.png"])
    return tmp_path


def source(root, record, **options):
    (root / "videos.json").write_text(json.dumps(record))
    return CocoVideoSource(annotation_file=root / "videos.json", image_root=root, **options)


def test_frames_are_in_order_and_objects_are_tracks(root):
    data = source(root, record())
    assert data.names == ["7", "9"] and data.track_field == "track_id"
    video = data[0]
    assert video.num_frames == 3
    assert video.read_frames([0, 2])[:, 0, 0, 0].tolist() == [0, 20]
    assert [video.visible_objects(i) for i in range(3)] == [[5], [5, 6], [6]]
    masks = video.read_masks(1)
    assert np.array_equal(masks[5], square(1, 1))
    inside = np.zeros((8, 10), bool)
    inside[1:5, 1:6] = True
    assert np.array_equal(masks[6], inside)
    assert sorted(video.read_masks(1, [6])) == [6]


@pytest.mark.parametrize("name", ["instance_id", "object_id", "nr"])
def test_the_track_field_is_found_or_named(root, name):
    data = record()
    for entry in data["annotations"]:
        entry[name] = entry.pop("track_id")
    if name == "nr":
        with pytest.raises(ValueError, match=r"no key of track_id, .*track_field.*'order'"):
            source(root, data)
        assert source(root, data, track_field="nr")[0].visible_objects(1) == [5, 6]
    else:
        assert source(root, data).track_field == name


def test_objects_by_the_order_of_annotations(root):
    data = record()
    for entry in data["annotations"]:
        del entry["track_id"]
    video = source(root, data, track_field="order")[0]
    assert [video.visible_objects(i) for i in range(3)] == [[0], [0, 1], [0]]


def test_lists_choose_and_exclude_videos(root):
    (root / "list.txt").write_text("9\n")
    assert source(root, record(), exclude_file=root / "list.txt").names == ["7"]
    assert source(root, record(), list_file=root / "list.txt").names == ["9"]
    (root / "list.txt").write_text("8\n")
    with pytest.raises(FileNotFoundError, match="1 videos in .*videos.json missing"):
        source(root, record(), list_file=root / "list.txt")


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("images", "video_id", r"videos.json, image 3: no 'video_id'; .*CocoImageSource"),
        ("images", "order_in_video", r"videos.json, image 3: no 'order_in_video'"),
        ("images", "file_name", r"videos.json, images\[0\]: no 'file_name'"),
        ("images", "id", r"videos.json, images\[0\]: no 'id'"),
        ("annotations", "image_id", r"videos.json, annotations\[0\]: no 'image_id'"),
    ],
)
def test_a_missing_key_is_named_with_its_record(root, section, key, message):
    data = record()
    del data[section][0][key]
    with pytest.raises(ValueError, match=message):
        source(root, data)


def test_broken_records_are_named(root):
    data = record()
    del data["images"][1]["height"]
    with pytest.raises(ValueError, match=r"videos.json, video 7, image 1: no 'height'.*add height"):
        source(root, data)[0].read_masks(0)
    data = record()
    data["images"][1]["order_in_video"] = 1
    with pytest.raises(ValueError, match="video 7: two images have the same order_in_video"):
        source(root, data)
    data = record()
    data["annotations"][1]["track_id"] = 6
    with pytest.raises(ValueError, match="annotations 11 and 12 both are track_id 6"):
        source(root, data)
    data = record()
    data["annotations"][0]["segmentation"] = {"size": [8, 10], "counts": "xx"}
    with pytest.raises(ValueError, match="videos.json, video 7, annotation 10: broken RLE"):
        source(root, data)[0].visible_objects(0)
    (root / "a" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 images missing.*\n.*a/1.png"):
        source(root, record())


def test_values_of_another_kind_are_named(root):
    """As text "10" would come before "9", and frames would be out of order without a word."""
    data = record()
    data["images"][0]["order_in_video"] = "10"
    with pytest.raises(ValueError, match="image 3: order_in_video '10' is no number"):
        source(root, data)
    data = record()
    data["images"][1]["height"] = "eight"
    with pytest.raises(ValueError, match="video 7, image 1: height 'eight' is no number"):
        source(root, data)[0].read_masks(0)
    for segmentation in (None, []):
        data = record()
        data["annotations"][0]["segmentation"] = segmentation
        with pytest.raises(ValueError, match="video 7, annotation 10: no segmentation .a box"):
            source(root, data)[0].read_masks(0)
    with pytest.raises(ValueError, match="videos.json: the list of annotations is empty"):
        source(root, {**record(), "annotations": []})


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_file_names_stay_in_their_folder(root, name):
    data = record()
    data["images"][0]["file_name"] = name
    with pytest.raises(ValueError, match=r"images\[0\]: .*secret.png' leads out of its folder"):
        source(root, data)
