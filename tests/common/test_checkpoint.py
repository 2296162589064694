"""Weights in and out of files."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from projects.common.checkpoint import Rename, load_state, read_state, rename, save_safetensors


def small_state() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, 2.0])}


def assert_same(left, right) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in right)


# ---- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
def test_torch_files(tmp_path, wrap):
    state = small_state()
    torch.save(state if wrap is None else {wrap: state, "epoch": 3}, tmp_path / "w.pt")
    assert_same(read_state(tmp_path / "w.pt"), state)


def test_ddp_prefix_is_dropped_only_where_all_keys_have_it(tmp_path):
    state = small_state()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "all.pt")
    assert_same(read_state(tmp_path / "all.pt"), state)
    mixed = {"module.x": torch.ones(1), "y": torch.ones(1)}
    torch.save(mixed, tmp_path / "some.pt")
    assert_same(read_state(tmp_path / "some.pt"), mixed)


def test_safetensors_file_and_folders(tmp_path):
    state = small_state()
    save_file(state, tmp_path / "model.safetensors")
    assert_same(read_state(tmp_path / "model.safetensors"), state)
    assert_same(read_state(tmp_path), state)


def sharded(folder, weight_map=None):
    state = small_state()
    save_file({"a.weight": state["a.weight"]}, folder / "s1.safetensors")
    save_file({"a.bias": state["a.bias"]}, folder / "s2.safetensors")
    weight_map = weight_map or {"a.weight": "s1.safetensors", "a.bias": "s2.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return state


def test_shards(tmp_path):
    state = sharded(tmp_path)
    assert_same(read_state(tmp_path), state)


@pytest.mark.parametrize("name", ["../s1.safetensors", "/etc/passwd", "sub/s1.safetensors", ".."])
def test_an_index_that_leaves_its_folder_is_refused(tmp_path, name):
    sharded(tmp_path, {"a.weight": name})
    save_file(small_state(), tmp_path.parent / "s1.safetensors")
    with pytest.raises(ValueError, match="not a file of its own folder"):
        read_state(tmp_path)


def test_missing_shard_and_missing_tensor(tmp_path):
    sharded(tmp_path, {"a.weight": "s9.safetensors"})
    with pytest.raises(FileNotFoundError, match="s9.safetensors"):
        read_state(tmp_path)
    sharded(tmp_path, {"a.weight": "s1.safetensors", "gone": "s1.safetensors"})
    with pytest.raises(ValueError, match="lack: gone"):
        read_state(tmp_path)


class Payload:
    def __reduce__(self):
        return (open, ("executed.txt", "w"))


def test_a_pickle_with_code_is_refused_unexecuted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": small_state(), "extra": Payload()}, "evil.pt")
    with pytest.raises(ValueError, match="could run code"):
        read_state("evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"x": Payload()}))
    with pytest.raises(ValueError, match="could run code"):
        read_state("plain.pt")
    assert not (tmp_path / "executed.txt").exists()


def test_broken_and_absent_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        read_state(tmp_path / "nowhere.pt")
    with pytest.raises(FileNotFoundError, match="neither"):
        read_state(tmp_path)
    for name in ("cut.pt", "cut.safetensors"):
        save = torch.save if name.endswith("pt") else save_file
        save(small_state(), tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=name):
            read_state(tmp_path / name)
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="empty.pt"):
        read_state(tmp_path / "empty.pt")
    torch.save({"optimizer": {"lr": 1.0}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="optimizer"):
        read_state(tmp_path / "other.pt")
    torch.save({}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="no tensors"):
        read_state(tmp_path / "none.pt")


# ---- renaming -------------------------------------------------------------------------------


def test_rename_uses_groups_and_whole_keys():
    rules = [Rename(r"enc\.(\d+)\.(weight|bias)", r"layers.\1.\2"), Rename("x", "y")]
    state = {"enc.12.weight": torch.ones(1), "x": torch.zeros(1)}
    assert list(rename(state, rules, where="f")) == ["layers.12.weight", "y"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["xx"], "no rule for: xx"),
        (["ab"], "more than one rule for: ab"),
        (["p", "q"], "same new name: q -> r"),
    ],
)
def test_rename_refuses_what_is_not_one_to_one(keys, message):
    rules = [Rename("a.", "1"), Rename(".b", "2"), Rename("[pq]", "r")]
    with pytest.raises(ValueError, match=message):
        rename(dict.fromkeys(keys, torch.ones(1)), rules, where="file")


# ---- loading --------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.head = nn.Linear(2, 2)


def test_load_reports_and_copies():
    model, state = Model(), small_state() | {"old": torch.ones(1)}
    report = load_state(
        model, state, allow_missing=["head.*"], allow_unexpected=["old"], where="file"
    )
    assert torch.equal(model.a.weight, state["a.weight"])
    assert report.matched == ["a.weight", "a.bias"]
    assert report.missing == ["head.weight", "head.bias"] and report.unexpected == ["old"]
    assert "2 matched, 2 missing, 1 unexpected" in str(report) and "head.weight" in str(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "missing: head.weight"),
        ({"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2), "b": torch.ones(1)}, "b"),
        ({"head.weight": torch.ones(5, 2), "head.bias": torch.ones(2)}, r"\(5, 2\) in the file"),
    ],
)
def test_nothing_unexplained_is_loaded(change, message):
    model = Model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_state(model, small_state() | change, where="file")
    assert_same(model.state_dict(), before)


def test_a_load_that_matches_nothing_is_an_error_whatever_is_allowed():
    with pytest.raises(ValueError, match="0 matched"):
        load_state(
            Model(), {"z": torch.ones(1)}, allow_missing=["*"], allow_unexpected=["*"], where="f"
        )


# ---- saving ---------------------------------------------------------------------------------


def test_save_round_trip_with_shared_and_strided_tensors(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    state = {"a": base, "b": base, "t": base.T}
    save_safetensors(state, tmp_path / "new" / "w.safetensors")
    assert_same(read_state(tmp_path / "new" / "w.safetensors"), state)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_safetensors(small_state(), path)

    def fail(state, target, metadata=None):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("projects.common.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_safetensors({"a": torch.ones(1)}, path)
    assert_same(read_state(path), small_state())
    assert [item.name for item in tmp_path.iterdir()] == ["w.safetensors"]
