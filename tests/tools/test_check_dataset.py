"""All data of a config is read before it trains."""

from __future__ import annotations

import json
import sys

import pytest

from tests.sam2_video.data.files import rle, square, write_frames, write_ids
from tools import check_dataset

CONFIG = """
from projects.sam2_video.data.clip import collate_clips
from projects.sam2_video.data.dataset import ClipDataset
from projects.sam2_video.data.png import PaletteSource
from projects.sam2_video.data.samplers import UniformSampler
from projects.sam2_video.data.sav import SavSource
from projects.sam2_video.evaluation.vos import VosBenchmark

_sampler = dict(type=UniformSampler, num_frames=2, max_objects=2)
_palette = dict(type=PaletteSource, image_root="{root}/frames", annotation_root="{root}/masks")
_sav = dict(type=SavSource, annotation_root="{root}/sav", frame_root="{root}/sav")
train_dataloader = dict(
    datasets=[
        dict(dataset=dict(type=ClipDataset, source=_palette, sampler=_sampler)),
        dict(dataset=dict(type=ClipDataset, source=_sav, sampler=_sampler)),
    ],
    batch_size=1,
    collate=collate_clips,
)
benchmarks = dict(val=dict(type=VosBenchmark, source=_palette))
"""


@pytest.fixture
def root(tmp_path):
    for video, frames in (("cat", 3), ("dog", 2)):
        write_frames(tmp_path / "frames" / video, [f"{i:05d}.png" for i in range(frames)])
        for number in range(frames):
            masks = {1: square(number, 0), 2: square(number, 5)}
            if (video, number) == ("cat", 2):
                masks = {0: square(0, 0)}  # background only
            write_ids(tmp_path / "masks" / video / f"{number:05d}.png", masks)
    write_frames(tmp_path / "sav" / "sav_000001", [f"{4 * i:05d}.png" for i in range(3)])
    masklets = [[rle(square(i, 0)), rle(square(i, 4))] for i in range(3)]
    (tmp_path / "sav" / "sav_000001_manual.json").write_text(json.dumps({"masklet": masklets}))
    (tmp_path / "config.py").write_text(CONFIG.replace("{root}", str(tmp_path)))
    return tmp_path


def run(monkeypatch, root, *options):
    argv = ["check_dataset.py", str(root / "config.py"), "--json", str(root / "report.json")]
    monkeypatch.setattr(sys, "argv", [*argv, *options])
    code = check_dataset.main()
    report = json.loads((root / "report.json").read_text())
    return code, {row["name"]: row for row in report}


def test_clean_data(root, monkeypatch, capsys):
    code, rows = run(monkeypatch, root)
    assert code == 0 and list(rows) == ["train[0]", "train[1]", "val"]
    palette = dict(videos=2, frames=5, objects=4, empty_frames=1, unreadable=0)
    assert rows["train[0]"]["counts"] == palette == rows["val"]["counts"]
    assert rows["train[1]"]["counts"] == dict(
        videos=1, frames=3, objects=2, empty_frames=0, unreadable=0
    )
    assert rows["train[0]"]["samples_per_second"] > 0
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["dataset", "type", "records"]
    assert first.split()[:7] == ["train[0]", "PaletteSource", "2", "2", "5", "4", "1"]


def test_names_and_limits(root, monkeypatch):
    code, rows = run(monkeypatch, root, "--dataset", "train[0]", "--limit", "1", "--workers", "1")
    assert code == 0 and list(rows) == ["train[0]"]
    assert rows["train[0]"]["counts"]["frames"] == 3
    with pytest.raises(SystemExit, match=r"no data \['test'\]; there is train\[0\]"):
        run(monkeypatch, root, "--dataset", "test")


def test_bad_records_are_counted_and_the_first_is_named(root, monkeypatch, capsys):
    path = root / "masks" / "dog" / "00001.png"
    path.write_bytes(path.read_bytes()[:-40])
    annotation = root / "sav" / "sav_000001_manual.json"
    record = json.loads(annotation.read_text())
    record["masklet"][2][1]["counts"] = "04"
    annotation.write_text(json.dumps(record))
    code, rows = run(monkeypatch, root)
    assert code == 1
    assert rows["train[0]"]["state"] == "bad records" and rows["train[0]"]["bad_records"] == 1
    assert rows["train[0]"]["counts"]["unreadable"] == 1
    assert "dog/00001.png" in rows["train[0]"]["problems"][0]
    assert "sav_000001_manual.json, masklet[2][1]" in rows["train[1]"]["problems"][0]
    assert "1 bad records, first:\n  " in capsys.readouterr().out


def test_videos_that_no_clip_fits_are_bad(root, monkeypatch):
    config = root / "config.py"
    config.write_text(config.read_text().replace("num_frames=2", "num_frames=3"))
    code, rows = run(monkeypatch, root)
    assert code == 1
    (problem,) = rows["train[0]"]["problems"]
    assert problem == "dog: 2 annotated frames, but a clip wants 3"
    assert rows["train[1]"]["state"] == "clean"


def test_a_dataset_that_cannot_be_built_is_a_row(root, monkeypatch):
    (root / "frames" / "cat" / "00001.png").unlink()
    (root / "sav" / "sav_000001_manual.json").unlink()
    code, rows = run(monkeypatch, root)
    assert code == 1
    assert rows["train[1]"]["state"] == "broken"
    assert "no video found" in rows["train[1]"]["problems"][0]
    assert rows["train[0]"]["bad_records"] == 1
    assert "annotated frames of video cat" in rows["train[0]"]["problems"][0]
