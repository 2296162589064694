"""Box files against the pixels of the masks that they are made of."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest

from projects.common.masks import encode_rle, write_palette_png
from projects.llava_sam2.datasets.box_rows import box_rows, object_boxes
from projects.llava_sam2.datasets.ref_ytvos import ref_ytvos_rows
from projects.llava_sam2.extraction.boxes import boxes_of_dictionary, boxes_of_ref_ytvos
from tests.llava_sam2.datasets.tiny import HEIGHT, WIDTH, save_jpeg
from tools import make_boxes as command


def blobs(draw, height, width):
    """A mask of scattered pixels and rectangles, sometimes of nothing."""
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(int(draw.integers(0, 4))):
        y, x = draw.integers(0, (height, width))
        mask[y : y + int(draw.integers(1, 9)), x : x + int(draw.integers(1, 9))] = True
    return mask


def pixel_box(mask):
    """By looking at every pixel; x2 and y2 exclusive."""
    places = [(x, y) for y, row in enumerate(mask) for x, here in enumerate(row) if here]
    if not places:
        return None
    xs, ys = zip(*places, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def test_boxes_of_a_dictionary_are_those_of_its_pixels(tmp_path):
    draw = np.random.default_rng(0)
    masks, expected = {}, {}
    for key in range(9):
        height, width = draw.integers(5, 40, 2)
        track = [blobs(draw, height, width) for _ in range(7)]
        track += [np.ones((height, width), bool), np.eye(height, width, dtype=bool)]
        masks[str(key)] = [encode_rle(mask) for mask in track] + [None]
        expected[str(key)] = [pixel_box(mask) for mask in track] + [None]
    source = tmp_path / "mask_dict.json"
    source.write_text(json.dumps(masks))
    out = tmp_path / "spatial" / "mevis" / "mevis_bbox.json"
    made = boxes_of_dictionary(source, out)
    assert json.loads(out.read_text()) == expected
    assert made.tracks == 9 and made.boxes == sum(
        b is not None for t in expected.values() for b in t
    )


def test_a_broken_mask_is_named_and_nothing_is_written(tmp_path):
    rle = encode_rle(np.ones((4, 6), dtype=bool))
    source, out = tmp_path / "mask_dict.json", tmp_path / "out" / "boxes.json"
    source.write_text(json.dumps({"0": [rle], "17": [rle, {**rle, "counts": "0"}]}))
    with pytest.raises(ValueError, match=r"anno_id 17 frame 1: broken RLE"):
        boxes_of_dictionary(source, out)
    assert not out.parent.exists()


@pytest.fixture
def rvos(tmp_path):
    """Two videos; the first has 11 expressions, so that numbers and text sort differently."""
    root = tmp_path / "video_datas" / "rvos"
    draw = np.random.default_rng(1)
    videos, counted = {}, {}
    for name, frames, count in (("b_first", 3, 11), ("a_second", 2, 2)):
        ids = draw.integers(0, 4, (frames, HEIGHT, WIDTH)) * (
            draw.random((frames, HEIGHT, WIDTH)) > 0.98
        )
        ids[:, 0, 0] = 1
        names = [f"{5 * frame:05d}" for frame in range(frames)]
        for frame, content in zip(names, ids, strict=True):
            save_jpeg(root / "train" / "JPEGImages" / name / f"{frame}.jpg", 3)
            folder = root / "train" / "Annotations" / name
            folder.mkdir(parents=True, exist_ok=True)
            write_palette_png(folder / f"{frame}.png", content.astype(np.uint8))
        entries = {str(k): {"exp": f"thing {k}", "obj_id": str(1 + k % 3)} for k in range(count)}
        videos[name] = {"frames": names, "expressions": entries}
        for key in sorted(entries):
            wanted = int(entries[key]["obj_id"])
            counted[str(len(counted))] = [content == wanted for content in ids]
    meta = root / "meta_expressions" / "train" / "meta_expressions.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"videos": videos}))
    masks = {int(k): [encode_rle(mask) for mask in track] for k, track in counted.items()}
    (root / "mask_dict.pkl").write_bytes(pickle.dumps(masks))
    return root, {key: [pixel_box(mask) for mask in track] for key, track in counted.items()}


@pytest.mark.parametrize(("masks", "workers"), [("png", 0), ("png", 2), ("mask_dict", 0)])
def test_ref_ytvos_by_the_number_of_the_expression(rvos, tmp_path, masks, workers):
    root, expected = rvos
    out, texts = tmp_path / "bbox.json", tmp_path / "expressions.json"
    made = boxes_of_ref_ytvos(root, out, texts, masks=masks, workers=workers)
    assert json.loads(out.read_text()) == expected and made.tracks == 13
    rows = box_rows(file=texts, boxes=out, frame_root=root / "train" / "JPEGImages")
    others = ref_ytvos_rows(root=root, split="train")
    assert [row.name for row in rows] == ["b_first", "a_second"]
    for row, other in zip(rows, others, strict=True):
        for one, two in zip(row.expressions, other.expressions, strict=True):
            assert (one.text, one.key) == (two.text, two.key)
            for frame in range(len(row)):
                found = object_boxes(row, one.objects, frame, (HEIGHT, WIDTH))
                assert found == object_boxes(other, two.objects, frame, (HEIGHT, WIDTH))


def test_expressions_without_masks_stop_it_or_have_no_boxes(rvos, tmp_path):
    root, expected = rvos
    meta = root / "meta_expressions" / "train" / "meta_expressions.json"
    content = json.loads(meta.read_text())
    content["videos"]["a_second"]["expressions"]["1"]["obj_id"] = "9"
    meta.write_text(json.dumps(content))
    out, texts = tmp_path / "out" / "bbox.json", tmp_path / "out" / "expressions.json"
    with pytest.raises(ValueError, match="video a_second expression 1: all its masks are empty"):
        boxes_of_ref_ytvos(root, out, texts)
    assert not out.parent.exists()
    boxes_of_ref_ytvos(root, out, texts, on_bad_row="skip")
    assert json.loads(out.read_text()) == expected | {"12": [None, None]}


@pytest.mark.parametrize(
    "broken",
    ["text", {"frames": ["00000"]}, {"frames": 3, "expressions": {}}, {"expressions": {"0": 1}}],
)
def test_what_is_no_video_is_skipped_and_the_numbers_stay(rvos, tmp_path, broken):
    root, expected = rvos
    meta = root / "meta_expressions" / "train" / "meta_expressions.json"
    content = json.loads(meta.read_text())
    content["videos"]["z_broken"] = broken  # behind the others
    meta.write_text(json.dumps(content))
    out, texts = tmp_path / "bbox.json", tmp_path / "expressions.json"
    with pytest.raises(ValueError, match="1 bad records:\n  video z_broken: it"):
        boxes_of_ref_ytvos(root, out, texts)
    boxes_of_ref_ytvos(root, out, texts, on_bad_row="skip")
    found = json.loads(out.read_text())
    assert {key: found[key] for key in expected} == expected
    with pytest.raises(ValueError, match="1 bad records:\n  video z_broken"):
        box_rows(file=texts, boxes=out, frame_root=root / "train" / "JPEGImages")


def test_command_line(rvos, tmp_path, monkeypatch, caplog):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["make_boxes.py", *map(str, arguments), "--workers", "0"])
        with caplog.at_level("INFO"):
            return command.main()

    assert call(tmp_path) == 0
    folder = tmp_path / "special_jsons" / "spatial" / "refytvos"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ref_ytvos_bbox.json",
        "ref_ytvos_expressions.json",
    ]
    assert "boxes of 13 objects" in caplog.text and "mevis" not in caplog.text
    with pytest.raises(SystemExit, match=r"no such mask dictionary"):
        call(tmp_path, "mevis")
    with pytest.raises(SystemExit, match=r"no mose; boxes are made of mevis \(.*mask_dict\.json"):
        call(tmp_path, "mose")
    with pytest.raises(SystemExit, match="no masks there"):
        call(tmp_path / "nowhere")
    for name in ("mevis/train", "ReVOS"):
        source = tmp_path / "video_datas" / name / "mask_dict.json"
        source.parent.mkdir(parents=True)
        source.write_text(json.dumps({"3": [encode_rle(np.ones((2, 3), dtype=bool)), None]}))
    assert call(tmp_path, "mevis", "revos", "--out", tmp_path / "out") == 0
    for path in ("mevis/mevis_bbox.json", "revos/revos_bbox.json"):
        assert json.loads((tmp_path / "out" / path).read_text()) == {"3": [[0, 0, 3, 2], None]}
