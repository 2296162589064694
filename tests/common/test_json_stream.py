"""Json that is read in pieces is what json reads whole, however the pieces fall."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from projects.common import json_stream
from projects.common.json_stream import json_items, json_values

VALUES = [123456, -1.5e-7, 'a " , ] é 𝄞', None, True, [], {}, [[1], {"x": "]"}], {"k": [0]}]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_pieces_fall_anywhere(tmp_path: Path, monkeypatch, chunk: int, indent: int | None) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    for count in range(len(VALUES) + 1):
        path.write_text(json.dumps(VALUES[:count], indent=indent, ensure_ascii=False) + "\n")
        assert [value for value, _ in json_values(path)] == VALUES[:count]
        items = {f"k{number}": value for number, value in enumerate(VALUES[:count])}
        path.write_text(json.dumps(items, indent=indent))
        found = list(json_items(path))
        assert {key: value for key, value, _ in found} == items
        assert [done for *_, done in found] == sorted(done for *_, done in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a list of videos, found nothing"),
        ('{"a": 1}', "expected a list of videos, found dict"),
        ("12", "expected a list of videos, found int"),
        ("nul", "not valid JSON at character 0"),
        ("[1, 2", "not valid JSON at character 5 .*comma or the closing ]"),
        ("[1 2]", "not valid JSON at character 3 .*comma"),
        ("[1,]", r"not valid JSON at character 3"),
        ("[1] [2]", "more text after the end"),
        ('["a', "not valid JSON at character 1"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        list(json_values(path, what="videos"))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'["\xff\xfe"]')
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON .*utf-8"):
        list(json_values(path))
