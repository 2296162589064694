"""Lists of SA-V's objects and scenes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.common.video import write_mp4
from projects.sam2_video.data.sav_lists import FactsFile, FactsSettings
from tests.sam2_video.data.files import rle, square
from tools import make_sav_lists

RED, GREEN, BLUE = (220, 20, 20), (20, 220, 20), (20, 20, 220)


def write_video(root, name, colours, masklets, mp4=False):
    """Each colour stays for four frames, that is for one annotated frame."""
    frames = [np.full((64, 96, 3), colour, np.uint8) for colour in colours for _ in range(4)]
    if mp4:
        write_mp4(root / f"{name}.mp4", frames, 24)
    else:
        (root / name).mkdir(parents=True)
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(root / name / f"{number:05d}.png")
    (root / f"{name}_manual.json").write_text(json.dumps({"masklet": masklets}))


@pytest.fixture
def sav(tmp_path):
    here, gone = rle(square(0, 0, (64, 96))), rle(np.zeros((64, 96), bool))
    root = tmp_path / "sav"
    root.mkdir()
    write_video(root, "sav_000001", [RED, RED, GREEN], [[here, gone], [here, gone], [here, here]])
    write_video(root, "sav_000002", [RED, RED, RED], [[here], [here], [gone]], mp4=True)
    write_video(root, "sav_000003", [RED, GREEN, BLUE], [[gone, None], [here, here], [gone, None]])
    write_video(root, "sav_000004", [RED, GREEN, RED], [[here], [here], [here]], mp4=True)
    return root


def run(monkeypatch, sav, out, *options):
    argv = ["make_sav_lists.py", str(sav), str(sav), str(out), "--workers", "0", *options]
    monkeypatch.setattr(sys, "argv", argv)
    return make_sav_lists.main()


def lines(path):
    return Path(path).read_text().splitlines()


def test_objects_and_scenes(sav, tmp_path, monkeypatch):
    assert run(monkeypatch, sav, tmp_path / "out") == 0
    assert lines(tmp_path / "out" / "sav_video_obj_ids.txt") == [
        "sav_000001 0",
        "sav_000001 1",
        "sav_000002 0",
        "sav_000003 0",
        "sav_000003 1",
        "sav_000004 0",
    ]
    # most changes first, then by name; the second video has none
    expected = ["sav_000003", "sav_000004", "sav_000001"]
    assert lines(tmp_path / "out" / "sav_scene_top2k.txt") == expected


def test_options(sav, tmp_path, monkeypatch):
    assert run(monkeypatch, sav, tmp_path / "a", "--top", "1", "--min-frames", "2") == 0
    assert lines(tmp_path / "a" / "sav_scene_top1.txt") == ["sav_000003"]
    objects = lines(tmp_path / "a" / "sav_video_obj_ids.txt")
    assert objects == ["sav_000001 0", "sav_000002 0", "sav_000004 0"]
    assert run(monkeypatch, sav, tmp_path / "b", "--objects-only") == 0
    assert not list((tmp_path / "b").glob("sav_scene*"))


def test_an_interrupted_run_goes_on(sav, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(monkeypatch, sav, out) == 0
    whole = {path.name: path.read_text() for path in out.glob("*.txt")}
    facts = (out / "sav_facts.jsonl").read_text().splitlines(keepends=True)
    (out / "sav_facts.jsonl").write_text("".join(facts[:3]) + facts[3][:20])  # a torn line
    for path in out.glob("*.txt"):
        path.unlink()
    read = []
    original = make_sav_lists.video_facts

    def counted(index, **options):
        read.append(index)
        return original(index, **options)

    monkeypatch.setattr(make_sav_lists, "video_facts", counted)
    assert run(monkeypatch, sav, out) == 0
    assert read == [2, 3]
    assert {path.name: path.read_text() for path in out.glob("*.txt")} == whole
    for changed in (("--threshold", "0.5"), ("--ann-every", "2")):
        with pytest.raises(SystemExit, match="made with other settings"):
            run(monkeypatch, sav, out, *changed)
    for annotation in list(sav.glob("*_manual.json")):
        annotation.rename(sav / annotation.name.replace("manual", "auto"))
    with pytest.raises(SystemExit, match="made with other settings"):  # other objects
        run(monkeypatch, sav, out, "--kind", "auto")


@pytest.mark.parametrize(
    "option", [("--top", "0"), ("--step", "0"), ("--threshold", "2"), ("--min-frames", "0")]
)
def test_numbers_that_cannot_be_meant_are_refused_first(sav, tmp_path, monkeypatch, option):
    with pytest.raises(SystemExit, match=rf"make_sav_lists: .*{option[1]}"):
        run(monkeypatch, sav, tmp_path / "out", *option)
    assert not (tmp_path / "out").exists()


def test_broken_videos_are_named_and_missing(sav, tmp_path, monkeypatch, caplog):
    (sav / "sav_000001_manual.json").write_text('{"masklet": [')
    assert run(monkeypatch, sav, tmp_path / "out") == 1
    assert "sav_000001_manual.json is not valid json" in caplog.text
    kept = lines(tmp_path / "out" / "sav_video_obj_ids.txt")
    assert kept == ["sav_000002 0", "sav_000003 0", "sav_000003 1", "sav_000004 0"]


def test_facts_of_an_empty_file_are_not_reused(tmp_path):
    (tmp_path / "facts.jsonl").write_text("")
    with pytest.raises(ValueError, match="remove it to start anew"):
        FactsFile(tmp_path / "facts.jsonl", FactsSettings())
