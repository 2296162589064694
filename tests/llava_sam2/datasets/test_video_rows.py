"""Referring video: hand-made files of the real shapes, and what is said about bad ones."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.common.masks import write_palette_png
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.frame_samplers import RandomFrames
from projects.llava_sam2.datasets.grounding import GroundingDataset
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.pixels import HorizontalFlip, resize_masks
from projects.llava_sam2.datasets.records import RowErrors
from projects.llava_sam2.datasets.ref_sav import ref_sav_rows
from projects.llava_sam2.datasets.ref_ytvos import ref_davis_rows, ref_ytvos_rows
from projects.llava_sam2.datasets.revos import revos_rows
from projects.llava_sam2.datasets.templates import Templates
from tests.llava_sam2.datasets.tiny import (
    HEIGHT,
    WIDTH,
    block,
    mevis_content,
    rle,
    save_jpeg,
    tiny_inputs,
    write_mevis,
)

SIZE = (HEIGHT, WIDTH)
A, B = block(0, 0, 6, 6), block(10, 20, 16, 26)
# ids as text, unordered, more than nine: sorted as text "10" comes before "2"
IDS = ["0", "1", "2", "10"]


def write_frames(folder: Path, frames: list[str], seed: int = 0) -> None:
    for number, frame in enumerate(frames):
        save_jpeg(folder / f"{frame}.jpg", seed + number)


def write_rvos(root: Path, split: str = "train") -> Path:
    """Two videos; frames every 5th as in YouTube-VOS; object 2 is not on the first."""
    frames = ["00000", "00005", "00010"]
    entries = {
        key: {"exp": f"thing {key}", "obj_id": "2" if key in ("1", "10") else "1"} for key in IDS
    }
    videos = {
        "003234408d": {"expressions": entries, "frames": frames},
        "0043f083b5": {"expressions": {"0": {"exp": "other", "obj_id": "7"}}, "frames": frames[:2]},
    }
    for name, video in videos.items():
        write_frames(root / split / "JPEGImages" / name, video["frames"])
        folder = root / split / "Annotations" / name
        folder.mkdir(parents=True)
        for number, frame in enumerate(video["frames"]):
            ids = np.zeros(SIZE, np.uint8)
            if name == "003234408d":
                ids[A] = 1
                ids[B] = 2 if number else 0
            else:
                ids[np.roll(A, number, axis=1)] = 7
            write_palette_png(folder / f"{frame}.png", ids)
    meta = root / "meta_expressions" / split / "meta_expressions.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"videos": videos}))
    return root


def dictionary_of_rvos() -> dict[str, list]:
    one, two = [rle(A)] * 3, [None, rle(B), rle(B)]
    return {"0": one, "1": two, "2": two, "3": one, "4": [rle(A), rle(np.roll(A, 1, axis=1))]}


@pytest.mark.parametrize(("masks", "where"), [("png", None), ("mask_dict", "."), ("both", "train")])
def test_ref_youtube_vos(tmp_path: Path, masks: str, where: str | None) -> None:
    """The dictionary counts expressions in the order of the file, their ids sorted as text."""
    root = write_rvos(tmp_path)
    if where:
        (root / where / "mask_dict.pkl").write_bytes(pickle.dumps(dictionary_of_rvos()))
    kind = "png" if masks == "png" else "mask_dict"
    first, second = ref_ytvos_rows(root=root, split="train", masks=kind)
    assert first.frames == ("00000.jpg", "00005.jpg", "00010.jpg")
    assert [e.key for e in first.expressions] == [f"003234408d/{key}" for key in IDS]
    for expression in first.expressions:
        two = expression.key.endswith(("/1", "/10"))
        for frame, mask in ((0, B & False if two else A), (2, B if two else A)):
            np.testing.assert_array_equal(first.read_mask(expression.objects, frame, SIZE), mask)
    (other,) = second.expressions
    np.testing.assert_array_equal(second.read_mask(other.objects, 1, SIZE), np.roll(A, 1, axis=1))
    assert ref_ytvos_rows(root=root, split="train", masks=kind, limit=1)[0].name == "003234408d"


def test_a_counted_dictionary_of_other_expressions(tmp_path: Path) -> None:
    root = write_rvos(tmp_path)
    content = dictionary_of_rvos()
    del content["4"]
    (root / "mask_dict.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"mask_dict\.pkl: 4 entries for 5 expressions"):
        ref_ytvos_rows(root=root, split="train", masks="mask_dict")
    with pytest.raises(ValueError, match="masks are one of png, mask_dict, none; got 'pngs'"):
        ref_ytvos_rows(root=root, split="train", masks="pngs")


def test_valid_of_ref_youtube_vos_leaves_out_the_test_videos(tmp_path: Path) -> None:
    """The released expressions of valid tell of both; frames of the test videos are not there."""
    root = write_rvos(tmp_path, "valid")
    shutil.rmtree(root / "valid" / "JPEGImages" / "0043f083b5")
    with pytest.raises(ValueError, match="1 bad records:\n  video 0043f083b5: no folder"):
        ref_ytvos_rows(root=root, split="valid", masks="none")
    test = root / "meta_expressions" / "test" / "meta_expressions.json"
    test.parent.mkdir()
    test.write_text(json.dumps({"videos": {"0043f083b5": {}}}))
    (row,) = ref_ytvos_rows(root=root, split="valid", masks="none")
    assert row.name == "003234408d"
    test.write_text("[]")
    with pytest.raises(ValueError, match="test/meta_expressions.json: expected an object with"):
        ref_ytvos_rows(root=root, split="valid", masks="none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expressions": {"0": {"exp": None, "obj_id": "7"}}}, "expression 0: 'exp' is None, not"),
        ({"expressions": {"0": {"exp": 7, "obj_id": "7"}}}, "expression 0: 'exp' is 7, not text"),
        ({"expressions": {"0": {"exp": " ", "obj_id": "7"}}}, "expression 0: empty expression"),
        ({"frames": None}, "its 'frames' are no list"),
        ({"expressions": None}, "its 'expressions' are no objects"),
    ],
)
def test_fields_of_another_kind_are_bad_records(tmp_path: Path, change, message: str) -> None:
    root = write_rvos(tmp_path)
    meta = root / "meta_expressions" / "train" / "meta_expressions.json"
    content = json.loads(meta.read_text())
    content["videos"]["0043f083b5"] |= change
    meta.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"1 bad records:\n  video 0043f083b5.* ?{message}"):
        ref_ytvos_rows(root=root, split="train")
    numbered = dictionary_of_rvos()
    if change.get("expressions", 0) is None:
        del numbered["4"]
    (root / "mask_dict.pkl").write_bytes(pickle.dumps(numbered))
    with pytest.raises(ValueError, match=f"1 bad records:\n  video 0043f083b5.* ?{message}"):
        ref_ytvos_rows(root=root, split="train", masks="mask_dict")


def test_bad_palettes_are_named(tmp_path: Path) -> None:
    root = write_rvos(tmp_path)
    folder = root / "train" / "Annotations" / "0043f083b5"
    (folder / "00005.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 frames are not in .*Annotations.*00005\.png"):
        ref_ytvos_rows(root=root, split="train")
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "00005.png")
    write_palette_png(folder / "00000.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(ValueError, match=r"0043f083b5 expression 0: .*00005\.png.*not as colours"):
        ref_ytvos_rows(root=root, split="train")
    write_palette_png(folder / "00005.png", np.full(SIZE, 6, np.uint8))
    with pytest.raises(ValueError, match="0043f083b5 expression 0: all its masks are empty"):
        ref_ytvos_rows(root=root, split="train")
    assert len(ref_ytvos_rows(root=root, split="train", on_bad_row="skip")) == 1
    meta = root / "meta_expressions" / "train" / "meta_expressions.json"
    content = json.loads(meta.read_text())
    content["videos"]["003234408d"]["expressions"]["0"]["obj_id"] = "../1"
    del content["videos"]["003234408d"]["expressions"]["1"]["obj_id"]
    content["videos"]["../../etc"] = content["videos"].pop("0043f083b5")
    meta.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="3 bad records") as raised:
        ref_ytvos_rows(root=root, split="train")
    text = str(raised.value)
    assert "expression 0: obj_id '../1' is no id" in text
    assert "expression 1: it names no " in text and "'../../etc' leads out of" in text


def test_annotators_of_ref_davis(tmp_path: Path) -> None:
    root = write_rvos(tmp_path, "valid")
    (row, _) = ref_davis_rows(root=root)
    assert [e.part for e in row.expressions] == [f"annotator {k}" for k in (1, 1, 2, 2)]
    meta = root / "meta_expressions" / "valid" / "meta_expressions.json"
    content = json.loads(meta.read_text())
    del content["videos"]["003234408d"]["expressions"]["0"]["obj_id"]
    meta.write_text(json.dumps(content))
    (root / "mask_dict.pkl").write_bytes(pickle.dumps(dictionary_of_rvos()))
    (row, _) = ref_davis_rows(root=root, masks="mask_dict")
    parts = [None, *(f"annotator {k}" for k in (1, 1, 2))]
    assert [e.part for e in row.expressions] == parts  # whose it is cannot be told


def revos_content() -> tuple[dict, dict]:
    frames = ["00000", "00001"]
    expressions = {
        "0": {"exp": "a thing", "obj_id": [1], "anno_id": [5], "type_id": 0, "type": "x"},
        "1": {"exp": "what is it?", "obj_id": [1, 2], "anno_id": [5, 6], "type_id": 1},
        "2": {"exp": "a unicorn", "obj_id": [], "anno_id": [], "type_id": 2},
        "3": {"exp": "a dragon", "obj_id": [3], "anno_id": [7], "type_id": 2},
    }
    video = {"expressions": expressions, "frames": frames, "height": HEIGHT, "width": WIDTH}
    masks = {"5": [rle(A), None], "6": [rle(B), rle(B)], "7": [None, rle(A & B)]}
    return {"videos": {"UVO/0a1": video}}, masks


def write_revos(root: Path, meta: dict, masks: dict, frames: str = "JPEGImages") -> Path:
    root.mkdir(exist_ok=True)
    (root / "meta_expressions_valid_.json").write_text(json.dumps(meta))
    (root / "mask_dict.json").write_text(json.dumps(masks))
    write_frames(root / frames / "UVO" / "0a1", ["00000", "00001"])
    return root


def test_revos(tmp_path: Path) -> None:
    meta, masks = revos_content()
    (row,) = revos_rows(root=write_revos(tmp_path, meta, masks), split="valid")
    assert row.name == "UVO/0a1" and row.read([1]).shape == (1, *SIZE, 3)
    parts = [(e.key, e.part) for e in row.expressions]
    assert [key for key, _ in parts] == [f"UVO/0a1/{k}" for k in range(4)]
    assert [part for _, part in parts] == ["referring", "reasoning", "absent", "absent"]
    one, both, nothing, empty = row.expressions
    np.testing.assert_array_equal(row.read_mask(both.objects, 0, SIZE), A | B)
    assert not row.read_mask(one.objects, 1, SIZE).any()
    assert nothing.objects == () and not row.read_mask(empty.objects, 1, SIZE).any()
    meta["videos"]["UVO/0a1"]["expressions"]["3"]["type_id"] = 0
    with pytest.raises(ValueError, match=r"UVO/0a1 expression 3: all its masks are empty"):
        revos_rows(root=write_revos(tmp_path, meta, masks), split="valid")
    masks["7"] = [None, {"size": list(SIZE), "counts": "0"}]
    meta["videos"]["UVO/0a1"]["expressions"]["3"]["type_id"] = 2
    with pytest.raises(ValueError, match=r"expression 3: .*anno_id 7 frame 1: broken RLE"):
        revos_rows(root=write_revos(tmp_path, meta, masks), split="valid")


def test_revos_as_it_lies_in_sa2vas_release(tmp_path: Path) -> None:
    write_revos(tmp_path, *revos_content(), frames=".")
    (row,) = revos_rows(root=tmp_path, split="valid", frames="")
    assert row[1].shape == (*SIZE, 3)


def test_masks_that_are_with_a_server_cannot_be_trained_on(tmp_path: Path) -> None:
    root = write_mevis(tmp_path / "valid")
    (root / "mask_dict.json").unlink()
    rows = mevis_rows(root=root, masks=False)
    assert {e.objects for row in rows for e in row.expressions} == {None}
    templates = Templates(questions=["segment {expression} ."], answers=["it is [SEG] ."])
    inputs = tiny_inputs(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="clip_a: its masks are not public"):
        GroundingDataset(rows=rows, inputs=inputs, templates=templates, mask_size=8)


def test_samples_have_the_masks_of_decoding_mirroring_and_resizing(tmp_path: Path) -> None:
    rows = mevis_rows(root=write_mevis(tmp_path / "mevis"))
    templates = Templates(
        questions=["segment {expression} ."], answers=["it is [SEG] {expression} ."]
    )
    inputs = tiny_inputs(tmp_path / "tokenizer")
    for side in (7, 24, 45):
        for mirror in (0.0, 1.0):
            data = GroundingDataset(
                rows=rows,
                inputs=inputs,
                templates=templates,
                mask_size=side,
                expressions=2,
                frames=RandomFrames(num=3),
                flip=HorizontalFlip(probability=mirror, words={"left": "right"}),
            )
            masks = data[Draw(0, 0, 5)].masks
            row, kinds = rows[0], []
            for expression in row.expressions:
                full = np.stack([row.read_mask(expression.objects, t, SIZE) for t in range(3)])
                full = np.flip(full, axis=2) if mirror else full
                kinds.append(resize_masks(full, side).numpy())
            orders = [np.stack(kinds).tobytes(), np.stack(kinds[::-1]).tobytes()]
            assert masks.shape == (2, 3, side, side) and masks.numpy().tobytes() in orders


def test_a_mask_of_another_size_than_its_frame(tmp_path: Path) -> None:
    meta, masks = mevis_content()
    masks["3"] = [rle(np.ones((8, 8), bool))] * 2
    row = mevis_rows(root=write_mevis(tmp_path, meta, masks))[1]
    with pytest.raises(ValueError, match=r"anno_id 3 frame 1: the RLE is 8x8 .* image 20x32"):
        row.sample_masks([(0,)], [1], SIZE, 16)


def test_reasons_are_counted(caplog) -> None:
    errors = RowErrors("meta.json", "skip")
    for number in range(14):
        errors.add(f"video {number}", f"anno_id {number} not in /data/{number}/mask_dict.json")
    errors.add("video x", "no folder /data/x")
    with caplog.at_level(logging.WARNING):
        errors.finish([1])
    assert "meta.json: 15 bad records" in caplog.text
    assert "by reason: 14 x anno_id n not in ...; 1 x no folder ..." in caplog.text


def write_sav(root: Path, objects: dict) -> dict[str, Path]:
    """A video of 12 frames of which every 4th is annotated, with two objects."""
    write_frames(root / "SA-V" / "sav_1", [f"{t:05d}" for t in range(12)])
    masklet = [[rle(A), rle(B)], [rle(np.roll(A, 2, axis=0)), None], [rle(A), rle(B)]]
    (root / "SA-V" / "sav_1_manual.json").write_text(
        json.dumps({"video_id": "sav_1", "masklet": masklet, "masklet_id": [0, 1]})
    )
    record = {"video_path": "x/sav_1.mp4", "anno_path": "x/sav_1_manual.json", "objects": objects}
    (root / "Ref-SAV.json").write_text(json.dumps({"sav_1": record}))
    return {"file": root / "Ref-SAV.json", "video_root": root / "SA-V"}


def test_ref_sav(tmp_path: Path) -> None:
    objects = {"1": {"formated": "the second", "short_caps": ["b"]}, "0": {"formated": "first"}}
    (row,) = ref_sav_rows(**write_sav(tmp_path, objects))
    assert list(row.frames) == ["00000", "00004", "00008"] and len(row) == 3
    assert [(e.text, e.key) for e in row.expressions] == [
        ("the second", "sav_1/1"),
        ("first", "sav_1/0"),
    ]
    second, first = (e.objects for e in row.expressions)
    np.testing.assert_array_equal(row.read_mask(first, 1, SIZE), np.roll(A, 2, axis=0))
    assert not row.read_mask(second, 1, SIZE).any()
    small = row.sample_masks([second, first], [0], SIZE, 9)
    np.testing.assert_array_equal(small[0, 0], resize_masks(B, 9))
    np.testing.assert_array_equal(small[1, 0], resize_masks(A, 9))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"0": {"formated": " "}}, "object 0: empty expression"),
        ({"a": {"formated": "x"}}, "object 'a': not an index"),
        ([], "video sav_1: it needs 'objects'"),
    ],
)
def test_bad_records_of_ref_sav(tmp_path: Path, objects, message: str) -> None:
    files = write_sav(tmp_path, objects)
    with pytest.raises(ValueError, match=message):
        ref_sav_rows(**files)


def test_missing_files_of_ref_sav(tmp_path: Path) -> None:
    files = write_sav(tmp_path, {"4": {"formated": "x"}})
    (row,) = ref_sav_rows(**files)
    with pytest.raises(ValueError, match=r"sav_1_manual\.json: no object 4, it has 2"):
        row.read_mask((0,), 0, SIZE)
    (tmp_path / "SA-V" / "sav_1_manual.json").rename(tmp_path / "away.json")
    with pytest.raises(ValueError, match=r"video sav_1: no file .*sav_1_manual\.json"):
        ref_sav_rows(**files)
    record = json.loads(files["file"].read_text())
    record["sav_1"]["anno_path"] = "../away.json"
    files["file"].write_text(json.dumps(record))
    with pytest.raises(ValueError, match="leads out of"):
        ref_sav_rows(**files)
