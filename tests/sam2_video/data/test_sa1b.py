"""SA-1B images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from projects.sam2_video.data.sa1b import Sa1bSource
from tests.sam2_video.data.files import rle, square, write_frames


@pytest.fixture
def root(tmp_path):
    write_frames(tmp_path, ["sa_1.jpg", "sa_2.JPG", "sa_3.jpg"])
    whole = np.ones((8, 10), bool)
    whole[0] = False
    small = np.zeros((8, 10), bool)
    small[0, 0] = True
    masks = [
        (square(0, 0), 0.9, 0.95),
        (whole, 0.8, 0.9),
        (small, 0.95, 0.5),
        (~whole & False, 1, 1),
    ]
    for name in ("sa_1", "sa_2"):
        write_json(tmp_path / f"{name}.json", masks)
    return tmp_path


def write_json(path, masks):
    annotations = [
        {
            "id": 100 + number,
            "segmentation": rle(mask),
            "area": int(mask.sum()),
            "predicted_iou": iou,
            "stability_score": stability,
        }
        for number, (mask, iou, stability) in enumerate(masks)
    ]
    path.write_text(json.dumps({"image": {}, "annotations": annotations}))


def test_images_with_their_masks(root):
    source = Sa1bSource(image_root=root)
    assert source.names == ["sa_1", "sa_2"]  # the third has no json
    image = source[1]
    assert image.num_frames == 1 and image.read_frames([0, 0]).shape == (2, 8, 10, 3)
    assert image.visible_objects(0) == [0, 1, 2]  # the last one is empty
    assert np.array_equal(image.read_masks(0, [0])[0], square(0, 0))
    assert sorted(image.read_masks(0)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (dict(min_area=5), [0, 1]),
        (dict(max_area_share=0.5), [0, 2]),
        (dict(min_iou=0.9), [0, 2]),
        (dict(min_stability=0.9), [0, 1]),
        (dict(max_masks=2), [0, 1]),
        (dict(max_area_share=0.5, max_masks=1), [0]),
    ],
)
def test_filters(root, options, kept):
    assert Sa1bSource(image_root=root, **options)[0].visible_objects(0) == kept


def test_lists(root):
    (root / "list.txt").write_text("sa_2.jpg\n")
    assert Sa1bSource(image_root=root, list_file=root / "list.txt").names == ["sa_2"]
    assert Sa1bSource(image_root=root, exclude_file=[root / "list.txt"]).names == ["sa_1"]
    (root / "list.txt").write_text("sa_3\n")
    with pytest.raises(FileNotFoundError, match=r"1 images or annotations.*\n.*sa_3.json"):
        Sa1bSource(image_root=root, list_file=root / "list.txt")


def test_broken_records_are_named(root):
    path = root / "sa_1.json"
    record = json.loads(path.read_text())
    del record["annotations"][1]["area"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"sa_1.json, annotations\[1\]: no 'area'"):
        Sa1bSource(image_root=root)[0]
    record["annotations"] = record["annotations"][:1]
    del record["annotations"][0]["predicted_iou"]
    path.write_text(json.dumps(record))
    assert Sa1bSource(image_root=root)[0].visible_objects(0) == [0]  # nobody asked for it
    with pytest.raises(ValueError, match="no 'predicted_iou'; drop the filter"):
        Sa1bSource(image_root=root, min_iou=0.5)[0]
    path.write_text("{}")
    with pytest.raises(ValueError, match="no list 'annotations'"):
        Sa1bSource(image_root=root)[0]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="sa_1.json is not valid json"):
        Sa1bSource(image_root=root)[0]


def test_values_of_another_kind_are_named(root):
    path = root / "sa_1.json"
    record = json.loads(path.read_text())
    record["annotations"][0]["segmentation"] = [[0, 0, 3, 0, 3, 3]]
    path.write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match=r"sa_1.json, annotations\[0\]: the segmentation is no RLE"
    ):
        Sa1bSource(image_root=root, max_area_share=0.5)[0]
    record["annotations"][0]["area"] = "9"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"annotations\[0\]: area '9' is no number"):
        Sa1bSource(image_root=root)[0]
