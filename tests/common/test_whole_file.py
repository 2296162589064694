"""Files appear whole or not at all, also on a disk that is full (``/dev/full`` says that it is)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from projects.common.checkpoint import save_safetensors
from projects.common.masks import read_binary_png, write_binary_png
from projects.common.whole_file import whole_file


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a" / "scores.json"
    with whole_file(path) as partial:
        partial.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("half of the n")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    path = tmp_path / "00000.png"
    write_binary_png(path, np.ones((4, 4), bool))
    real = Path.with_name

    def on_a_full_disk(self, name):
        partial = real(self, name)
        if not partial.is_symlink():
            partial.symlink_to("/dev/full")
        return partial

    monkeypatch.setattr(Path, "with_name", on_a_full_disk)
    with pytest.raises(OSError, match=r"00000\.png cannot be written: No space left on device"):
        write_binary_png(path, np.zeros((4, 4), bool))
    assert list(tmp_path.iterdir()) == [path] and read_binary_png(path).all()


def test_tensors_on_a_full_disk(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("projects.common.checkpoint.save_file", full)
    path = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match=r"model\.safetensors cannot be written: .*No space left"):
        save_safetensors({"a": torch.ones(2)}, path)
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, whole_file(tmp_path / "zip") as partial:
        partial.write_bytes((tmp_path / "picture").read_bytes())
    assert raised.value.filename == str(tmp_path / "picture")
    assert not list(tmp_path.iterdir())
