"""The protocols of ReVOS and Ref-DAVIS17 against numbers made by hand; submissions unpacked."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.common.evaluation import read_records, run_benchmark
from projects.common.mask_store import open_masks
from projects.common.masks import encode_rle
from projects.llava_sam2.datasets.mevis import mevis_rows
from projects.llava_sam2.datasets.rows import Expression, RleTrack, Row
from projects.llava_sam2.evaluation.refer_video import ReferVideoBenchmark, robustness
from projects.llava_sam2.evaluation.submission import SubmissionBenchmark, write_submission
from projects.llava_sam2.predictor import Answer
from tests.llava_sam2.datasets.tiny import HEIGHT, WIDTH, block, rle, save_jpeg, write_mevis
from tools import make_submission

EMPTY = np.zeros((HEIGHT, WIDTH), bool)
LEFT, HALF, RIGHT = block(0, 0, 8, 8), block(0, 0, 8, 4), block(10, 20, 16, 30)


class Says:
    """Expression key -> a mask for every frame, or None for no [SEG]."""

    def __init__(self, masks):
        self.masks = masks

    def answer(self, model, row):
        def one(mask):
            return [] if mask is None else [[encode_rle(mask)] * len(row)]

        return [Answer("so", one(self.masks[e.key])) for e in row.expressions]

    def describe(self):
        return "says"


def video(folder: Path, name: str, expressions: list[tuple[str, tuple[int, ...], str | None]]):
    """Two frames; object 0 is LEFT on both, object 1 RIGHT on the second only."""
    for number in range(2):
        save_jpeg(folder / name / f"0000{number}.jpg", number)
    objects = (
        RleTrack([rle(LEFT), rle(LEFT)], where="test"),
        RleTrack([None, rle(RIGHT)], where="test"),
    )
    said = tuple(Expression(key, of, f"{name}/{key}", part) for key, of, part in expressions)
    return Row(name, folder / name, ("00000.jpg", "00001.jpg"), None, objects, said)


def foreground(folder: Path, name: str):
    path = folder / "mask_dict_foreground.json"
    path.write_text(json.dumps({name: {"masks_rle": [rle(LEFT), rle(LEFT | RIGHT)]}}))
    return open_masks(path)


def test_revos(tmp_path: Path) -> None:
    """Overall is the mean of the types, however many expressions each has."""
    row = video(
        tmp_path,
        "v",
        [
            ("a", (0,), "referring"),
            ("b", (0,), "referring"),
            ("c", (1,), "reasoning"),
            ("d", (), "absent"),
            ("e", (), "absent"),
        ],
    )
    says = Says({"v/a": LEFT, "v/b": HALF, "v/c": LEFT, "v/d": None, "v/e": LEFT | RIGHT})
    benchmark = ReferVideoBenchmark(
        rows=[row], respond=says, average="parts", foreground=foreground(tmp_path, "v")
    )
    scores = run_benchmark("revos", benchmark, None, tmp_path / "out")
    assert scores["revos/J[referring]"] == pytest.approx((1 + 0.5) / 2)
    assert scores["revos/J[reasoning]"] == 0.0
    assert scores["revos/J"] == pytest.approx(0.75 / 2)
    assert scores["revos/F"] == pytest.approx(scores["revos/F[referring]"] / 2)
    assert scores["revos/J&F"] == pytest.approx((scores["revos/J"] + scores["revos/F"]) / 2)
    assert scores["revos/R[referring]"] == 1.0
    # 64 wrong pixels: frame 0 has 64 of foreground, frame 1 64 + 60
    assert scores["revos/R[reasoning]"] == pytest.approx((0 + 1 - 64 / 124) / 2)
    assert {key[6:] for key in scores if "[" not in key} == set(ReferVideoBenchmark.metrics)
    assert scores["revos/R"] == pytest.approx((1 + scores["revos/R[reasoning]"]) / 2)
    # what names nothing: an empty answer is right; all of it counts against R
    assert scores["revos/J[absent]"] == 0.5
    assert scores["revos/R[absent]"] == pytest.approx((1 + 0) / 2)
    assert scores["revos/answered"] == 0.8
    by_expressions = ReferVideoBenchmark(rows=[row], respond=says)
    plain = run_benchmark("plain", by_expressions, None, tmp_path / "out")
    assert plain["plain/J"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert "plain/R" not in plain


def test_robustness() -> None:
    assert robustness(LEFT, LEFT, None) == 1.0
    assert robustness(EMPTY, LEFT, LEFT) == 1.0
    assert robustness(LEFT, HALF, LEFT | RIGHT) == pytest.approx(1 - 32 / 124)
    assert robustness(LEFT, EMPTY, HALF) == 0.0
    assert robustness(LEFT, EMPTY, None) == robustness(LEFT, EMPTY, EMPTY) == 0.0


def test_ref_davis_is_averaged_over_annotators(tmp_path: Path) -> None:
    """Where one annotator described fewer objects, the mean of means is another number."""
    rows = [
        video(tmp_path, "v", [("a", (0,), "annotator 1"), ("b", (0,), "annotator 2")]),
        video(tmp_path, "w", [("a", (0,), "annotator 1")]),
    ]
    says = Says({"v/a": LEFT, "v/b": HALF, "w/a": EMPTY})
    benchmark = ReferVideoBenchmark(rows=rows, respond=says, average="parts")
    scores = run_benchmark("davis", benchmark, None, tmp_path / "out")
    assert scores["davis/J[annotator 1]"] == 0.5 and scores["davis/J[annotator 2]"] == 0.5
    assert scores["davis/J"] == 0.5
    benchmark = ReferVideoBenchmark(rows=rows[:1], respond=says, average="parts")
    assert run_benchmark("one", benchmark, None, tmp_path / "out")["one/J"] == 0.75


def test_wrong_protocols(tmp_path: Path) -> None:
    row = video(tmp_path, "v", [("a", (0,), None)])
    with pytest.raises(ValueError, match="average is 'expressions' or 'parts', got 'mean'"):
        ReferVideoBenchmark(rows=[row], respond=Says({}), average="mean")
    with pytest.raises(ValueError, match="do not belong to parts"):
        ReferVideoBenchmark(rows=[row], respond=Says({}), average="parts")
    with pytest.raises(ValueError, match=r"foreground\.json: no foreground of video v"):
        ReferVideoBenchmark(rows=[row], respond=Says({}), foreground=foreground(tmp_path, "w"))
    path = tmp_path / "short.json"
    path.write_text(json.dumps({"v": [None]}))
    with pytest.raises(ValueError, match=r"short\.json: 1 masks of video v, which has 2 frames"):
        ReferVideoBenchmark(rows=[row], respond=Says({}), foreground=open_masks(path))


@pytest.mark.parametrize(("layout", "folder"), [("mevis", ""), ("ref_ytvos", "Annotations/")])
def test_a_submission_unpacked(tmp_path: Path, layout: str, folder: str) -> None:
    root = write_mevis(tmp_path / "valid")
    (root / "mask_dict.json").unlink()
    rows = mevis_rows(root=root, masks=False)
    with pytest.raises(ValueError, match="clip_a: its masks are not public"):
        ReferVideoBenchmark(rows=rows, respond=Says({}))
    said = {"clip_a/0": LEFT, "clip_a/1": None, "clip_b/0": RIGHT}
    benchmark = SubmissionBenchmark(rows=rows, respond=Says(said))
    scores = run_benchmark("valid", benchmark, None, tmp_path / "out")
    assert set(scores) == {f"valid/{name}" for name in SubmissionBenchmark.metrics}
    assert scores == {"valid/answered": pytest.approx(2 / 3), "valid/empty": pytest.approx(1 / 3)}
    out = tmp_path / "sent.zip"
    assert write_submission(tmp_path / "out" / "valid.jsonl", out, layout=layout) == 3
    expected = {
        f"{folder}{key}/{t:05d}.png": EMPTY if said[key] is None else said[key]
        for key in said
        for t in range(3 if "clip_a" in key else 2)
    }
    with zipfile.ZipFile(out) as archive:
        assert sorted(archive.namelist()) == sorted(expected)
        for name, mask in expected.items():
            with Image.open(io.BytesIO(archive.read(name))) as image:
                assert image.mode == "L"
                np.testing.assert_array_equal(np.array(image), mask * 255)
    first = out.read_bytes()
    write_submission(tmp_path / "out" / "valid.jsonl", out, layout=layout)
    assert out.read_bytes() == first


def test_a_submission_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl: no such records"):
        write_submission(tmp_path / "no.jsonl", tmp_path / "x.zip", layout="mevis")
    records = tmp_path / "records.jsonl"
    good = {"key": "v/0", "frames": ["0.jpg"], "pred": [rle(LEFT)]}
    records.write_text(json.dumps(good) + "\n" + json.dumps({**good, "frames": []}) + "\n")
    assert len(read_records(records)) == 2
    with pytest.raises(ValueError, match=r"records\.jsonl: line 2: 0 frames and 1 masks"):
        write_submission(records, tmp_path / "x.zip", layout="mevis")
    with pytest.raises(ValueError, match="layout is one of mevis, ref_ytvos; got 'davis'"):
        write_submission(records, tmp_path / "x.zip", layout="davis")
    assert list(tmp_path.iterdir()) == [records]


def test_the_tool(tmp_path: Path, monkeypatch) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"key": "v/0", "frames": ["0.jpg"], "pred": [rle(LEFT)]}) + "\n")
    arguments = ["make_submission.py", str(records), str(tmp_path / "x.zip"), "--layout", "mevis"]
    monkeypatch.setattr(sys, "argv", arguments)
    make_submission.main()
    assert zipfile.ZipFile(tmp_path / "x.zip").namelist() == ["v/0/0.png"]
    monkeypatch.setattr(sys, "argv", [arguments[0], str(tmp_path / "no"), *arguments[2:]])
    with pytest.raises(SystemExit, match="no such records"):
        make_submission.main()
