from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from projects.common import registry


class Loss:
    def __init__(self, *, weight: float = 1.0, kind: str) -> None:
        self.weight, self.kind = weight, kind


class Head:
    def __init__(self, *, loss: Loss, layers: tuple = ()) -> None:
        self.loss, self.layers = loss, layers


def reader(*, data_root: str, ann_file: str | Path, out_path: Path | None = None) -> str:
    return f"{data_root}/{ann_file}"


def test_builds_inner_parts_first():
    tree = dict(
        type=Head,
        loss=dict(type=Loss, kind="dice"),
        layers=(dict(type=nn.Linear, in_features=2, out_features=3), [dict(width=4)]),
    )
    head = registry.build(tree)
    assert isinstance(head.loss, Loss) and head.loss.kind == "dice"
    assert head.layers[0].weight.shape == (3, 2)
    assert head.layers[1] == [{"width": 4}]
    assert tree["loss"] == dict(type=Loss, kind="dice")  # the config itself is left alone


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch.nn.Linear", nn.Linear),
        ("torch.nn:Linear", nn.Linear),
        ("torch.nn.Module.register_buffer", nn.Module.register_buffer),
        ("BaseDataPreprocessor", "mmengine.model.base_model.data_preprocessor"),
    ],
)
def test_names_resolve(name, expected):
    found = registry.resolve(name)
    assert found is expected or found.__module__ == expected


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("torch.nn.Linaer", "torch.nn.Linaer.*cannot be found"),
        ("no_such_package.Thing", "no_such_package"),
        ("Unregistered", "in no registry"),
        ("torch.nn", "not a class or function"),
        (3, "3 is int"),
    ],
)
def test_types_that_lead_nowhere(target, words):
    with pytest.raises(ValueError, match=words):
        registry.resolve(target)


def test_a_broken_import_inside_the_named_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "half_broken.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="a_module_that_is_missing"):
        registry.resolve("half_broken.Thing")


def test_all_mistakes_at_once(tmp_path):
    (tmp_path / "there.json").touch()
    tree = dict(
        model=dict(
            type=Head,
            loss=dict(type=Loss, wieght=2.0, kind="dice"),
            layers=[dict(type="torch.nn.Linaer")],
        ),
        modle=3,
        _helper=4,
        data=[
            dict(type=reader, data_root=str(tmp_path), ann_file="there.json"),
            dict(type=reader, data_root=str(tmp_path), ann_file="gone.json", out_path="new.txt"),
            dict(type=Loss),
        ],
    )
    with pytest.raises(registry.ConfigError) as caught:
        registry.check(tree, known=("model", "data"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "the config has 5 mistakes:"
    assert [line.strip() for line in lines[1:]] == [
        "modle: unknown key, did you mean 'model'?",
        "model.loss.wieght: Loss has no such key, did you mean 'weight'?",
        "model.layers[0].type: type 'torch.nn.Linaer' cannot be found: "
        "module 'torch.nn' has no attribute 'Linaer'",
        f"data[1].ann_file: {tmp_path}/gone.json does not exist",
        "data[2].kind: missing, Loss needs it",
    ]


def test_a_file_that_many_keys_name_is_one_mistake():
    read = dict(type=reader, data_root="here", ann_file="gone.json")
    with pytest.raises(registry.ConfigError) as raised:
        registry.check(dict(a=read, b=[read, dict(read, out="new.txt")]))
    lines = str(raised.value).splitlines()
    assert lines == [
        "the config has 2 mistakes:",
        "  a.ann_file and 2 more: here/gone.json does not exist",
        "  b[1].out: reader has no such key",
    ]


def test_mistakes_that_are_alike_in_other_ways_are_all_told():
    found = ["a: missing", "b: missing", "everything does not exist", "c: x does not exist"]
    with pytest.raises(registry.ConfigError) as raised:
        registry.raise_mistakes(found)
    assert str(raised.value).split("\n  ") == ["the config has 4 mistakes:", *found]


def test_files_of_a_list_are_looked_for(tmp_path):
    def lists(*, exclude: str | Path | list[Path] | None = None): ...

    (tmp_path / "there.txt").touch()
    there, gone = str(tmp_path / "there.txt"), str(tmp_path / "gone.txt")
    found = registry.mistakes(dict(type=lists, exclude=[there, gone, there]), "data")
    assert found == [f"data.exclude[1]: {gone} does not exist"]
    registry.check(dict(type=lists, exclude=(there,)))


def test_a_right_config_passes():
    registry.check(dict(model=dict(type=Loss, kind="dice")), known=("model",))


def test_functions_that_take_any_keyword_are_not_second_guessed():
    def anything(**settings):
        return settings

    registry.check(dict(type=anything, whatever=1))
    assert registry.build(dict(type=anything, whatever=1)) == {"whatever": 1}
