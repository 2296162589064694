"""A download is linked into place once; what is incomplete is named by file."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from projects.llava_sam2.downloads.catalogue import CATALOGUE, PLACES
from projects.llava_sam2.downloads.link import describe, link, statuses
from projects.llava_sam2.downloads.wanted import Features, File, Folder, Images, Videos

ROOT = Path(__file__).resolve().parents[3]


def write(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def download(tmp_path) -> Path:
    """As Sa2VA's release names things: RefCOCO whole, MeViS without a video."""
    folder = tmp_path / "downloads"
    refs = folder / "ref_seg" / "refcoco"
    write(refs / "instances.json", json.dumps({"images": [{"file_name": "a.jpg"}]}))
    (refs / "refs(unc).p").write_bytes(pickle.dumps([]))
    write(folder / "train2014" / "a.jpg")
    mevis = folder / "video_datas" / "mevis" / "train"
    videos = {"videos": {"v0": {}, "v1": {}}}
    write(mevis / "meta_expressions.json", json.dumps(videos))
    write(mevis / "mask_dict.json", "{}")
    write(mevis / "JPEGImages" / "v0" / "00000.jpg")
    return folder


def state_of(root: Path) -> dict[str, str]:
    return {status.entry.name: status.state for status in statuses(root)}


def test_a_download_is_linked_and_judged(download, tmp_path):
    root = tmp_path / "data"
    linked = link(download, root)
    assert set(linked.made) == {"coco2014/train2014", "refer_seg/refcoco", "video_datas/mevis"}
    assert (root / "refer_seg/refcoco").resolve() == (download / "ref_seg/refcoco").resolve()
    states = state_of(root)
    assert states["refcoco"] == "complete" and states["mevis train"] == "incomplete"
    assert states["refcoco+"] == "missing" and states["osprey"] == "missing"
    said = describe(linked, statuses(root))
    assert "1 of 2 videos of video_datas/mevis/train/meta_expressions.json" in said
    assert "e.g. v1" in said and "https://github.com/lichengunc/refer" in said
    (download / "train2014" / "a.jpg").unlink()
    assert state_of(root)["refcoco"] == "incomplete"


def test_twice_is_once_and_nothing_is_overwritten(download, tmp_path):
    root = tmp_path / "data"
    mine = write(root / "refer_seg" / "refcoco" / "mine.txt", "mine")
    first, second = link(download, root), link(download, root)
    assert "refer_seg/refcoco" not in first.made and "refer_seg/refcoco" in first.kept
    assert mine.read_text() == "mine" and not (root / "refer_seg" / "refcoco").is_symlink()
    assert second.made == {} and set(second.kept) == {*first.made, *first.kept}
    other = tmp_path / "other"
    write(other / "mevis" / "train" / "mask_dict.json")
    assert link(other, root).made == {}  # the first download's mevis stays
    assert sorted(p.name for p in download.iterdir()) == ["ref_seg", "train2014", "video_datas"]


def test_links_that_lead_nowhere_are_told_and_left(download, tmp_path):
    root = tmp_path / "data"
    link(download, root)
    download.rename(tmp_path / "moved")
    linked = link(tmp_path / "moved", root)
    assert len(linked.broken) == 3 and linked.made == {}
    assert "leads nowhere" in describe(linked, statuses(root))


def test_folders_that_cannot_be_meant_are_refused(download, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        link(tmp_path / "nowhere", tmp_path / "data")
    with pytest.raises(ValueError, match="holds the data root"):
        link(download, download / "data")
    with pytest.raises(ValueError, match="holds the data root"):
        link(download, download)
    with pytest.raises(ValueError, match="within the data root"):
        link(download, tmp_path)


def test_what_is_wanted(tmp_path):
    write(tmp_path / "empty.json", "")
    assert "is empty" in File("empty.json").missing(tmp_path)
    assert File("absent.json").missing(tmp_path) == "no absent.json"
    for name in ("a.jpg", "b.jpg", "c.txt"):
        write(tmp_path / "pictures" / name)
    assert Folder("pictures", ".jpg", 2).missing(tmp_path) is None
    assert Folder("pictures", ".jpg", 3).missing(tmp_path) == "pictures: 2 of 3 *.jpg"
    for number in range(3):
        write(tmp_path / "sav" / f"sav_00{number}" / f"sav_{number}_manual.json")
    assert Folder("sav", "_manual.json", 3, parts="sav_*").missing(tmp_path) is None
    assert "0 of 3" in Folder("sav", "_manual.json", 3).missing(tmp_path)
    write(tmp_path / "sta.txt", "A 0.0 1.0##x.\nB 0.0 1.0##y.\nA 2.0 3.0##z.\n\n")
    write(tmp_path / "times.json", json.dumps([{"video": "some/where/A.mp4", "QA": []}]))
    write(tmp_path / "table.csv", "id,length\nA,3\n")
    write(tmp_path / "features" / "A.pt")
    problem = Features("sta.txt", "features").missing(tmp_path)
    assert problem == "features: 1 of 2 videos of sta.txt are not there, e.g. B.pt"
    assert Features("times.json", "features").missing(tmp_path) is None
    assert Features("table.csv", "features").missing(tmp_path) is None
    write(tmp_path / "list.json", "[1]")
    for wanted in (
        Features("list.json", "features"),
        Images("list.json", "pictures"),
        Videos("list.json", "pictures"),
    ):
        assert "is it the right file?" in wanted.missing(tmp_path)


def test_a_list_that_is_broken_makes_it_incomplete(download, tmp_path):
    link(download, tmp_path / "data")
    write(download / "ref_seg" / "refcoco" / "instances.json", "{")
    status = next(s for s in statuses(tmp_path / "data") if s.entry.name == "refcoco")
    assert status.state == "incomplete" and "not valid JSON" in status.problems[0]


def test_every_dataset_has_a_place_and_a_page():
    places = [place.path for place in PLACES]
    assert len(set(places)) == len(places)
    assert all(not Path(place).is_absolute() and ".." not in place for place in places)
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names) and all(entry.pages for entry in CATALOGUE)
    for entry in CATALOGUE:
        for wanted in entry.wants:
            paths = [
                value for value in vars(wanted).values() if isinstance(value, str) and "/" in value
            ]
            for path in paths:
                inside = [
                    p
                    for p in places
                    if path == p or path.startswith(f"{p}/") or p.startswith(f"{path}/")
                ]
                assert inside, f"{entry.name}: no place leads to {path}"


def test_the_command(download, tmp_path):
    def run(*arguments):
        command = [sys.executable, str(ROOT / "tools/prepare_data.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    first = run(download, "--data-root", "data")
    assert first.returncode == 1 and "linked refer_seg/refcoco" in first.stdout
    (download / "video_datas/mevis/train/JPEGImages/v1").mkdir()
    again = run("--data-root", "data")
    assert again.returncode == 0 and "refcoco, mevis train" in again.stdout
    assert run("nowhere").stderr == "error: nowhere: no such folder of downloads\n"


def test_videos_of_another_split_are_not_wanted(tmp_path):
    """Ref-YouTube-VOS' expressions of valid tell of the test videos too."""
    meta = "meta_expressions/{}/meta_expressions.json"
    write(tmp_path / meta.format("valid"), json.dumps({"videos": {"a": {}, "b": {}}}))
    write(tmp_path / "JPEGImages" / "a" / "00000.jpg")
    wanted = Videos(meta.format("valid"), "JPEGImages", without=meta.format("test"))
    assert "1 of 2 videos" in (wanted.missing(tmp_path) or "")
    write(tmp_path / meta.format("test"), json.dumps({"videos": {"b": {}}}))
    assert wanted.missing(tmp_path) is None
    (entry,) = [entry for entry in CATALOGUE if entry.name == "ref_ytvos valid"]
    assert [w.without for w in entry.wants if isinstance(w, Videos)] == [
        "video_datas/rvos/meta_expressions/test/meta_expressions.json"
    ]
