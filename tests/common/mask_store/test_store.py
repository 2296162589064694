"""Mask stores: what comes out is what the dictionary holds, whoever makes the store and when."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from projects.common import json_stream
from projects.common.mask_store import MaskStore, build, dictionary, open_masks
from projects.common.mask_store import store as store_module
from projects.common.mask_store.measure import BROKEN, measure
from projects.common.mask_store.nearest import axis, sample_mask, sample_runs
from projects.common.masks import rle_runs
from projects.llava_sam2.datasets.pixels import resize_masks

SHAPES = [(1, 1), (1, 37), (20, 1), (20, 32), (33, 7), (96, 128), (135, 240)]


def random_mask(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Noise of some density, a block, everything, or nothing."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.random(shape) < rng.choice([0.02, 0.5, 0.98])
    mask = np.full(shape, kind == 1)
    if kind == 2:
        (top, bottom), (left, right) = (sorted(rng.integers(0, side + 1, 2)) for side in shape)
        mask[top:bottom, left:right] = True
    return mask


def encoded(mask: np.ndarray) -> dict:
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def content(tracks: int = 9, frames: int = 5, seed: int = 0) -> dict[str, list[np.ndarray | None]]:
    """Tracks of masks, each of a size of its own, with frames on which there is nothing."""
    rng = np.random.default_rng(seed)
    return {
        str(7 * number): [
            None if rng.random() < 0.2 else random_mask(rng, SHAPES[number % len(SHAPES)])
            for _ in range(frames)
        ]
        for number in range(tracks)
    }


def write(path: Path, masks: dict[str, list[np.ndarray | None]]) -> Path:
    rles = {
        key: [None if mask is None else encoded(mask) for mask in track]
        for key, track in masks.items()
    }
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({int(key): track for key, track in rles.items()}))
    else:
        path.write_text(json.dumps(rles))
    return path


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return None
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def check(store: MaskStore, masks: dict[str, list[np.ndarray | None]]) -> None:
    assert list(store.keys()) == list(masks) and len(store) == len(masks)
    for key, track in masks.items():
        assert len(store[key]) == len(track)
        areas = [0 if mask is None else mask.sum() for mask in track]
        assert store[key].areas().tolist() == areas
        assert store[key].is_empty() == (not any(areas))
        for frame, mask in enumerate(track):
            if mask is None:
                assert store[key].read(frame) is store[key].box(frame) is None
                assert store[key].sample(frame, (3, 3), 4) is None
            else:
                np.testing.assert_array_equal(store[key].read(frame), mask)
                assert store[key].box(frame) == box_of(mask)


@pytest.mark.parametrize("name", ["mask_dict.json", "mask_dict.pkl"])
def test_everything_comes_back(tmp_path: Path, name: str) -> None:
    masks = content(tracks=20)
    store = open_masks(write(tmp_path / name, masks))
    check(store, masks)
    assert "14" in store and "15" not in store and 14 not in store
    with pytest.raises(KeyError, match=rf"anno_id 15 not in .*{name}"):
        store["15"]
    with pytest.raises(IndexError, match="anno_id 7 has 5 frames, asked for 5"):
        store["7"].read(5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.masks"]


def test_resized_masks_are_those_of_decoding_and_resizing() -> None:
    rng = np.random.default_rng(1)
    shapes = [(int(h), int(w)) for h, w in rng.integers(1, 70, (150, 2))]
    shapes += [(2, 6), (4, 2), (480, 854), (720, 1280), (1080, 1920), (300, 257)]
    for number, shape in enumerate(shapes):
        mask = random_mask(rng, shape)
        mirrored = np.ascontiguousarray(mask[:, ::-1]).copy()
        for side in {1, 7, 96, 123, int(rng.integers(1, 300)), 256 if number % 9 else 1024}:
            runs = rle_runs(encoded(mask), where="test")
            expected = resize_masks(mask, side).numpy()
            np.testing.assert_array_equal(sample_runs(runs, shape, side), expected)
            np.testing.assert_array_equal(sample_mask(mask, side), expected)
            expected = resize_masks(mirrored, side).numpy()
            np.testing.assert_array_equal(sample_runs(runs, shape, side, mirror=True), expected)
            np.testing.assert_array_equal(sample_mask(mask, side, mirror=True), expected)


def test_pixels_taken_are_those_of_torch() -> None:
    """Where 0.5 pixels fall between two, rounding decides; torch does it by type and output."""
    for length in [*range(1, 60), 128, 480, 720, 1080, 1920]:
        for side in (7, 96, 123, 256):
            for shape in ((length, 3), (5, length)):
                grid = np.indices(shape)[0 if shape[0] == length else 1]
                bits = [
                    resize_masks(grid >> bit & 1, side).numpy()
                    for bit in range(length.bit_length())
                ]
                taken = sum(plane.astype(int) << bit for bit, plane in enumerate(bits))
                along = taken[:, 0] if shape[0] == length else taken[0]
                assert axis(length, side).source.tolist() == along.tolist(), (length, side)


def test_a_track_is_sampled_at_the_frames_size_only(tmp_path: Path) -> None:
    masks = {"1": [random_mask(np.random.default_rng(8), (20, 32))]}
    track = open_masks(write(tmp_path / "m.json", masks))["1"]
    expected = resize_masks(masks["1"][0], 13).numpy()
    np.testing.assert_array_equal(track.sample(0, (20, 32), 13), expected)
    with pytest.raises(ValueError, match=r"anno_id 1 frame 0: the RLE is 20x32 .* image 32x20"):
        track.sample(0, (32, 20), 13)


def test_areas_of_many_at_once() -> None:
    rng = np.random.default_rng(2)
    masks = [random_mask(rng, SHAPES[number % len(SHAPES)]) for number in range(300)]
    texts = [encoded(mask)["counts"].encode() for mask in masks]
    expected = [int(mask.sum()) for mask in masks]
    for number in range(0, 300, 8):  # spoilt ones among them, which must not harm their neighbours
        text = texts[number]
        spoilt = [text[:-1], text + b"0", b"~" + text, text[:-1] + bytes([text[-1] | 32])]
        texts[number] = spoilt[number // 8 % 4] or b"o"
        expected[number] = BROKEN
    lengths = np.array([len(text) for text in texts])
    pixels = np.array([mask.size for mask in masks])
    text = np.frombuffer(b"".join(texts), dtype=np.uint8)
    found = measure(text, lengths, pixels)
    # a cut text may happen to be whole again: decoding is what says so
    for number, (one, area) in enumerate(zip(texts, found.tolist(), strict=True)):
        rle = {"size": list(masks[number].shape), "counts": one}
        try:
            decoded = int(rle_runs(rle, where="")[1::2].sum())
        except ValueError:
            decoded = BROKEN
        assert area == decoded
        assert area == expected[number] or number % 8 == 0
    assert (found == BROKEN).sum() > 10


def test_a_broken_mask_is_named_when_it_is_read(tmp_path: Path) -> None:
    good = encoded(np.ones((2, 3), bool))
    records = [
        {"size": [2, 3], "counts": "1"},
        {"size": [2, 3], "counts": [1, 2]},
        {"size": [2, 3], "counts": "ሴ"},
        {"size": [2, 3], "counts": ""},
        {"size": [2], "counts": "06"},
        {"counts": "06"},
        5,
        [good, {"size": [3, 2], "counts": "06"}],
    ]
    path = tmp_path / "mask_dict.json"
    path.write_text(json.dumps({"8": [good], "9": [good, *records, good], "10": [good]}))
    store = open_masks(path)
    for frame in range(1, len(records) + 1):
        with pytest.raises(ValueError, match=rf"mask_dict\.json anno_id 9 frame {frame}: "):
            store["9"].read(frame)
    for frame in (0, len(records) + 1):
        assert store["9"].read(frame).all()
    with pytest.raises(ValueError, match="anno_id 9 frame 1: broken RLE"):
        store["9"].is_empty()
    assert store["8"].read(0).all() and store["10"].areas().tolist() == [6]


def test_other_ways_to_write_an_rle(tmp_path: Path) -> None:
    left, right = np.zeros((2, 5, 4), bool)
    left[1:3, :2], right[:, 3] = True, True
    plain = {"size": [5, 4], "counts": [1, 2, 3, 2, 12]}
    track = {"masks_rle": [plain, [encoded(left), encoded(right)], [encoded(left)], []], "ratio": 1}
    path = tmp_path / "mask_dict_foreground.json"
    path.write_text(json.dumps({"UVO/a b": track, "é": []}, indent=4))
    store = open_masks(path)
    assert list(store.keys()) == ["UVO/a b", "é"] and len(store["é"]) == 0
    np.testing.assert_array_equal(store["UVO/a b"].read(0), left)
    np.testing.assert_array_equal(store["UVO/a b"].read(1), left | right)
    np.testing.assert_array_equal(store["UVO/a b"].read(2), left)
    assert store["UVO/a b"].read(3) is None


def test_a_json_is_read_in_pieces(tmp_path: Path, monkeypatch) -> None:
    masks = content(tracks=30, seed=3)
    path = write(tmp_path / "mask_dict.json", masks)
    expected = json.loads(path.read_text())
    for size in (1, 7, 300):
        monkeypatch.setattr(json_stream, "_CHUNK", size)
        read = list(dictionary.read_tracks(path))
        assert {key: track for key, track, _ in read} == expected
        assert [done for *_, done in read] == sorted(done for *_, done in read)
    windows = []
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 12)
    more = json_stream._Text._more

    def watched(self):
        windows.append(len(self.window))
        return more(self)

    monkeypatch.setattr(json_stream._Text, "_more", watched)
    path.write_text(json.dumps({str(n): [{"counts": "x" * 900}] for n in range(2000)}))
    assert len(list(dictionary.read_tracks(path))) == 2000
    assert max(windows) < path.stat().st_size / 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected an object of anno_ids"),
        ('{"1": {"a": 2}}', "key '1': expected a list .* found dict"),
        ('{"1": 4}', "key '1': expected a list .* found int"),
        ('{"1": [null], "1": []}', "key '1' is there twice"),
        ('{"1": [null', r"not valid JSON at character \d+"),
        ('{"1": [null] "2": []}', "not valid JSON at character 13 .*comma"),
        ('{"1": [null]} more', "more text after the end"),
        ('{"1": [null],}', "not valid JSON at character 13"),
        ("{1: []}", "not valid JSON at character 2 .*key"),
        ("", "expected an object"),
    ],
)
def test_files_that_are_no_mask_dictionaries(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mask_dict.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mask_dict\.json: .*{message}"):
        open_masks(path)
    assert list(tmp_path.iterdir()) == [path], "nothing half-made stays"


def test_an_empty_dictionary_and_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "mask_dict.json"
    with pytest.raises(FileNotFoundError, match=r"mask_dict\.json: no such mask dictionary"):
        open_masks(path)
    path.write_text(" {\n} ")
    assert len(open_masks(path)) == 0
    path.write_text('{"1": []}')
    assert len(open_masks(path)["1"]) == 0


def test_a_crafted_pickle_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / "mask_dict.pkl"
    path.write_bytes(pickle.dumps({"1": [Evil()]}))
    with pytest.raises(ValueError, match=r"mask_dict\.pkl: refused"):
        open_masks(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_changed_source_is_converted_again(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "mask_dict.json", content(seed=4))
    made = []
    make = build._make
    monkeypatch.setattr(build, "_make", lambda *of: (made.append(of), make(*of)))
    check(open_masks(path), content(seed=4))
    check(open_masks(path), content(seed=4))
    assert len(made) == 1
    status = path.stat()
    text = path.read_text()
    write(path, content(seed=5))  # other content and size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    check(open_masks(path), content(seed=5))
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))  # the time alone
    open_masks(path)
    path.write_text(path.read_text())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 2 * 10**9))
    open_masks(path)
    assert len(made) == 4
    # same size, same time, another byte
    spoilt = text.replace('"7":', '"8":')
    path.write_text(spoilt)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 2 * 10**9))
    assert "8" in open_masks(path) and len(spoilt) == len(text)


def test_the_hash_looks_at_both_ends_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(3_000_000))
    first = dictionary.identity(path)
    for place in (0, 65_000, 2_999_999):
        data = bytearray(3_000_000)
        data[place] = 1
        path.write_bytes(data)
        assert dictionary.identity(path)["hash"] != first["hash"]


@pytest.mark.parametrize("keep", [0, 5, 0.5, -1])
def test_a_cut_store_is_made_again(tmp_path: Path, caplog, keep: float) -> None:
    path = write(tmp_path / "mask_dict.json", content())
    open_masks(path)
    store = tmp_path / "mask_dict.json.masks"
    whole = store.read_bytes()
    store.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep) or None])
    if keep == 0:
        store.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        check(open_masks(path), content())
    assert "made anew" in caplog.text and store.read_bytes() == whole


def test_a_damaged_footer_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "mask_dict.json", content())
    open_masks(path)
    store = tmp_path / "mask_dict.json.masks"
    whole = bytearray(store.read_bytes())
    whole[-60] ^= 1
    store.write_bytes(whole)
    with pytest.raises(ValueError, match="footer is damaged"):
        MaskStore(store, path)
    check(open_masks(path), content())


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "mask_dict.json", content())

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "write_tables", stop)
    with pytest.raises(KeyboardInterrupt):
        open_masks(path)
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    check(open_masks(path), content())


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "mask_dict.json", content())
    tables = build.write_tables

    def late(*arguments):
        tables(*arguments)
        path.write_text("{}")

    monkeypatch.setattr(build, "write_tables", late)
    with pytest.raises(ValueError, match="changed while it was read"):
        open_masks(path)
    assert list(tmp_path.iterdir()) == [path]


def test_where_the_store_lies(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "data" / "mask_dict.json"
    path.parent.mkdir()
    write(path, content())
    check(open_masks(path, cache=tmp_path / "cache"), content())
    assert len(list((tmp_path / "cache").iterdir())) == 1 and len(list(path.parent.iterdir())) == 1
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "named"))
    other = tmp_path / "other" / "mask_dict.json"
    other.parent.mkdir()
    write(other, content(seed=9))
    check(open_masks(path), content())
    check(open_masks(other), content(seed=9))
    assert len(list((tmp_path / "named").iterdir())) == 2  # two files of one name do not collide
    monkeypatch.delenv(build.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    read_only(monkeypatch, path.parent)
    check(open_masks(path), content())
    assert len(list(path.parent.iterdir())) == 1 and list((tmp_path / "home").rglob("*.masks"))


def read_only(monkeypatch, *folders: Path) -> None:
    """As a mount that cannot be written; the tests may run as root, whom no mode hinders."""
    monkeypatch.setattr(build.os, "access", lambda place, mode: Path(place) not in folders)


def test_a_store_on_a_read_only_mount(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "data" / "mask_dict.json"
    path.parent.mkdir()
    write(path, content())
    beside = open_masks(path).path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    read_only(monkeypatch, path.parent)
    assert open_masks(path).path == beside and not (tmp_path / "home").exists()
    shipped = beside.read_bytes()
    write(path, content(seed=9))  # and the store that lies there is outdated
    store = open_masks(path)
    check(store, content(seed=9))
    assert store.path.is_relative_to(tmp_path / "home") and beside.read_bytes() == shipped
    assert open_masks(path).path == store.path, "made once"
    read_only(monkeypatch, path.parent, tmp_path / "none" / "mask_stores")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    with pytest.raises(OSError, match="has no place: .* by the environment variable MASK_STORE"):
        open_masks(path)


def _open_in_process(path: Path, start, results) -> None:
    made = []
    make = build._make
    build._make = lambda *of: (made.append(os.getpid()), make(*of))
    start.wait()
    store = open_masks(path)
    results.put((len(made), int(sum(store[key].areas().sum() for key in store.keys()))))


def test_eight_processes_make_it_once(tmp_path: Path) -> None:
    masks = content(tracks=400, seed=6)
    path = write(tmp_path / "mask_dict.json", masks)
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [
        context.Process(target=_open_in_process, args=(path, start, results)) for _ in range(8)
    ]
    for process in processes:
        process.start()
    start.set()
    answers = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join(timeout=600)
        assert process.exitcode == 0
    area = sum(int(mask.sum()) for track in masks.values() for mask in track if mask is not None)
    assert [total for _, total in answers] == [area] * 8
    assert sum(made for made, _ in answers) == 1
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["mask_dict.json", "mask_dict.json.masks"]


def test_a_track_travels_by_name(tmp_path: Path) -> None:
    masks = {"1": [np.ones((40, 50), bool)] * 60}
    path = write(tmp_path / "mask_dict.json", masks)
    track = open_masks(path)["1"]
    parcel = pickle.dumps(track)
    assert len(parcel) < 1000
    again = pickle.loads(parcel)
    assert again.store is not track.store and again.read(0).shape == (40, 50)
    assert int(again.areas().sum()) == 60 * 2000
    write(path, {"1": [np.ones((4, 5), bool)]})
    open_masks(path)
    assert track.read(0).shape == (40, 50), "the file that was mapped is still what it was"
    assert pickle.loads(parcel).store is again.store, "a process maps a store once"
    store_module._reopen.cache_clear()  # another process
    with pytest.raises(ValueError, match="made anew of another"):
        pickle.loads(parcel)
