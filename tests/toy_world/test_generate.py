"""A world is the same bytes however it is made, and never half there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from projects.toy_world import __main__ as command
from projects.toy_world.generate import generate
from projects.toy_world.layouts import mevis
from projects.toy_world.world import FULL, World

SIZES = {
    "refcoco_train": 5,
    "refcoco_testB": 2,
    "mevis_train": 3,
    "mevis_valid_u": 1,
    "sav_train": 1,
    "sav_val": 1,
    "davis_train": 1,
    "davis_val": 1,
}


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("world") / "toy"
    assert generate(World(seed=3, sizes=SIZES), out)
    assert [p.name for p in out.parent.iterdir()] == ["toy"]
    return files(out)


def test_two_processes_write_the_same_bytes(made, tmp_path) -> None:
    generate(World(seed=3, sizes=SIZES), tmp_path / "toy", workers=2)
    again = files(tmp_path / "toy")
    assert sorted(again) == sorted(made)
    assert [name for name in made if made[name] != again[name]] == []


def test_the_seed_changes_everything_and_the_sizes_nothing(made, tmp_path) -> None:
    generate(World(seed=4, sizes=SIZES), tmp_path / "other")
    other = files(tmp_path / "other")
    pictures = [name for name in made if name.startswith("coco2014")]
    assert len(pictures) == 7 and all(made[name] != other[name] for name in pictures)
    generate(World(seed=3, sizes={"refcoco_train": 2, "sav_train": 1}), tmp_path / "fewer")
    fewer = files(tmp_path / "fewer")
    same = [name for name in fewer if name.endswith((".jpg", ".mp4", "_manual.json"))]
    copies = 7 * 2  # of images, into the folders of other releases
    assert len(same) == 2 + 32 + 2 + copies
    assert all(fewer[name] == made[name] for name in same)


def test_a_world_that_is_there_is_kept_and_another_replaced(tmp_path) -> None:
    out, world = tmp_path / "toy", World(seed=1, sizes={"refcoco_train": 1})
    assert generate(world, out) is True
    (out / "tokenizer" / "mark").touch()
    assert generate(world, out) is False and (out / "tokenizer" / "mark").exists()
    assert generate(World(seed=2, sizes={"refcoco_train": 1}), out) is True
    assert not (out / "tokenizer" / "mark").exists()
    assert json.loads((out / "toy_world.json").read_text())["seed"] == 2
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"files of others in it \(notes\.txt\)"):
        generate(world, out)
    assert (out / "notes.txt").read_text() == "mine"


def test_folders_of_others_are_left_alone(tmp_path) -> None:
    out = tmp_path / "toy"
    out.mkdir()
    world = World(sizes={"refcoco_train": 1})
    (out / "photo.jpg").touch()
    with pytest.raises(ValueError, match="not empty and not a toy world"):
        generate(world, out)
    (out / "photo.jpg").unlink()
    in_the_way = tmp_path / "toy.tmp"
    in_the_way.mkdir()
    with pytest.raises(ValueError, match=r"toy\.tmp: is in the way"):
        generate(world, out)
    in_the_way.rmdir()
    assert generate(world, out), "an empty folder may be filled"


def test_a_failure_leaves_nothing_half_written(tmp_path, monkeypatch) -> None:
    out = tmp_path / "toy"
    generate(World(seed=1, sizes={"refcoco_train": 1}), out)
    before = files(out)

    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(mevis, "write_item", fail)
    with pytest.raises(OSError, match="no space left"):
        generate(World(seed=2, sizes={"refcoco_train": 1, "mevis_train": 1}), out)
    assert [p.name for p in tmp_path.iterdir()] == ["toy"] and files(out) == before


def test_remains_of_a_killed_run_are_cleared(tmp_path) -> None:
    remains = tmp_path / "toy.tmp"
    remains.mkdir()
    (remains / ".unfinished_toy_world").touch()
    (remains / "half").touch()
    generate(World(sizes={"refcoco_train": 1}), tmp_path / "toy")
    assert not remains.exists() and not (tmp_path / "toy" / "half").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {"refcoco_test": 1}}, "no such split: refcoco_test"),
        ({"sizes": {"refcoco_train": -1}}, "negative"),
        ({"side": 127}, "side must be even"),
        ({"clip_frames": 1}, "at least 2 frames: clip_frames"),
        ({"video_families": {"speed": 1.0}}, "no such family of expressions: speed"),
    ],
)
def test_wrong_settings_raise_before_anything_is_drawn(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        World(**options)


def test_command_line(tmp_path, capsys) -> None:
    out = tmp_path / "toy"
    zero = [part for name in FULL for part in (f"--{name.replace('_', '-')}", "0")]
    few = ["--images", "9", "--refcoco-train", "3", "--workers", "1", "--image-family", "shape=9"]
    assert command.main([str(out), "--seed", "5", *zero, *few]) == 0
    sidecar = json.loads((out / "toy_world.json").read_text())
    assert sidecar["seed"] == 5 and sidecar["image_families"]["shape"] == 9
    assert {k: v for k, v in sidecar["sizes"].items() if v} == {"refcoco_train": 3}
    assert command.main([str(tmp_path), "--size", "small"]) == 2
    assert "not a toy world" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([str(out), "--image-family", "shape"])
    assert "write it as colour=0.2" in capsys.readouterr().err
