"""The plain unpickler reads data and runs nothing."""

from __future__ import annotations

import collections
import pickle

import pytest

from projects.common.plain_pickle import load_plain_pickle


class Payload:
    """Pickles to a call that makes a file."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(tmp_path, protocol: int) -> None:
    data = [{"ref_id": 1, "big": 2**70, "x": 1.5, "sent": "über", "none": None, "t": (1, True)}]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    assert load_plain_pickle(path) == data


def test_python_2_text(tmp_path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"(dp0\nS'sent'\np1\nS'caf\\xe9'\np2\ns.")  # {'sent': 'caf\xe9'} in Python 2
    assert load_plain_pickle(path) == {"sent": "café"}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_crafted_pickle_is_refused_and_does_nothing(tmp_path, protocol: int) -> None:
    path, target = tmp_path / "bad.p", tmp_path / "made"
    path.write_bytes(pickle.dumps([{"a": 1}, Payload(str(target))], protocol=protocol))
    with pytest.raises(ValueError, match=r"bad\.p: refused, the pickle asks for \w+\.open"):
        load_plain_pickle(path)
    assert not target.exists()


def test_even_a_harmless_class_is_refused(tmp_path) -> None:
    path = tmp_path / "ordered.p"
    path.write_bytes(pickle.dumps(collections.OrderedDict(a=1)))
    with pytest.raises(ValueError, match=r"collections\.OrderedDict"):
        load_plain_pickle(path)


def test_broken_and_missing_files_are_named(tmp_path) -> None:
    path = tmp_path / "cut.p"
    whole = pickle.dumps([{"sent": "the red circle"}] * 3)
    for content in (b"", whole[:-5], b"\x80\x02}(K\x01u.", b"hello", b"N0."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cut\.p: not a whole pickle"):
            load_plain_pickle(path)
    with pytest.raises(FileNotFoundError, match=r"no\.p"):
        load_plain_pickle(tmp_path / "no.p")
