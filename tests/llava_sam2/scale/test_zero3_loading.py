"""ZeRO-3 starts from weights of any kind without a rank that holds the model whole."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from projects.common.engine.checkpoints import load_model, names_to_save
from projects.common.engine.config import load_config, plain
from projects.common.engine.model import build_model
from projects.common.partition import is_cut, whole
from projects.llava_sam2.hf import sa2va_from_folder
from projects.llava_sam2.hf.writing import export
from tests.engine import group
from tests.engine.processes import metrics, train
from tests.llava_sam2.hf.test_grounded import write_release
from tests.llava_sam2.scale import parts

RELEASED = "tests/llava_sam2/scale/released_config.py"
WIDE = 256
LORA = dict(rank=2, alpha=4, targets=["q_proj"])
ZERO_3 = ("--deepspeed", "deepspeed_zero3")
STILL = ("train_cfg.max_steps=1", "checkpoint.interval=1", "optim_wrapper.optimizer.lr=0.0")


def wide() -> dict:
    """The config with a language model that is most of the whole."""
    tree = plain(load_config(parts.CONFIG))
    tree["model"]["heads"]["segment"]["projector"]["hidden"] = WIDE
    tree["model"]["heads"]["temporal"]["projector"]["out"] = WIDE
    return tree


def check_all_kinds(folder: str, release: str, weights: str) -> None:
    os.environ[parts.FOLDER] = folder
    check_share(wide(), weights)
    tree = wide()
    tree["model"]["mllm"] = dict(type=parts.random_mllm)
    check_share(tree, None)
    released = dict(type=sa2va_from_folder, path=release, trainable=["mllm.model.lm_head"])
    tree = {"model": released | {"lora": LORA}}
    with group.cutting_as_zero3():
        model = build_model(tree, seed=1)
    check_same(model, build_model(tree, seed=1))


def check_share(tree: dict, weights: str | None) -> None:
    """A rank holds its share of all, and the smaller parts of the model whole in their turn."""
    expected = build_model(tree, seed=1)
    total = group.held_bytes(expected.parameters())
    language = group.held_bytes(expected.mllm.model.parameters())
    largest = max(p.numel() * p.element_size() for p in expected.parameters())
    assert language > 0.8 * total > 10 * largest
    with group.cutting_as_zero3() as held:
        model = build_model(tree, seed=1)
        for target in (model, expected) if weights else ():
            report = load_model(target, weights, partial=True)
            assert set(report.matched) >= set(names_to_save(expected))
    padding = 4 * len(list(expected.parameters()))
    assert abs(group.held_bytes(model.parameters()) - total / 2) <= padding
    # two of the largest where the vocabulary grows
    assert total / 2 < max(held) <= total / 2 + max(total - language, 2 * largest) / 2 + largest
    check_same(model, expected)


def check_same(model: nn.Module, expected: nn.Module) -> None:
    assert all(is_cut(parameter) for parameter in model.parameters())
    with whole(model.parameters()):
        for name, parameter in model.named_parameters():
            plain = expected.get_parameter(name)
            assert parameter.requires_grad == plain.requires_grad, name
            assert parameter.dtype == plain.dtype and torch.equal(parameter, plain), name


def test_no_rank_ever_holds_the_whole(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("wide", "release")]
    for folder in folders:
        folder.mkdir()
    parts.write_folder(folders[0], hidden=WIDE, layers=6)
    write_release(folders[1], "sa2va")
    monkeypatch.setenv(parts.FOLDER, str(folders[0]))
    trained = build_model(wide(), seed=2)
    names = names_to_save(trained)
    state = {name: value + 1 for name, value in trained.state_dict().items() if name in names}
    save_file(state, tmp_path / "weights.safetensors")
    group.run(check_all_kinds, *map(str, folders), str(tmp_path / "weights.safetensors"))


def test_a_missing_tensor_ends_all_ranks_before_any_is_read(folder, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    index = broken / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    lost = next(name for name in places["weight_map"] if "language_model.model.layers" in name)
    file = broken / places["weight_map"].pop(lost)
    index.write_text(json.dumps(places))
    state = load_file(file)
    del state[lost]
    save_file(state, file, metadata={"format": "pt"})
    monkeypatch.setenv(parts.FOLDER, str(broken))
    done = train(tmp_path / "run", *ZERO_3, processes=2, config=parts.CONFIG)
    assert 0 not in done.exit_codes
    assert "1 missing" in done.output and "Nothing was loaded" in done.output
    assert not (tmp_path / "run" / "metrics.jsonl").is_file()


@pytest.fixture(scope="module")
def first_loss(alone, tmp_path_factory) -> float:
    """Of one process that starts from what another trained."""
    work_dir = tmp_path_factory.mktemp("from") / "run"
    done = train(
        work_dir, "--load-from", str(alone), config=parts.CONFIG, options=(parts.BOTH, *STILL)
    )
    assert done.exit_codes == [0], done.output
    (line,) = metrics(work_dir)
    assert abs(line["loss"] - metrics(alone)[0]["loss"]) > 1e-3 * line["loss"]
    return line["loss"]


def test_weights_of_a_run_start_and_are_saved_as_without_zero(alone, first_loss, tmp_path):
    work_dir = tmp_path / "run"
    arguments = (*ZERO_3, "--load-from", str(alone))
    done = train(work_dir, *arguments, processes=2, config=parts.CONFIG, options=STILL)
    assert done.exit_codes == [0, 0], done.output
    assert metrics(work_dir)[0]["loss"] == pytest.approx(first_loss, rel=1e-5)
    saved, given = (load_file(d / "model.safetensors") for d in (work_dir, alone))
    assert saved.keys() == given.keys()
    for name, value in given.items():
        assert saved[name].dtype == value.dtype and torch.equal(saved[name], value), name


def test_an_export_starts_as_without_zero(alone, first_loss, tmp_path):
    tree = plain(load_config(parts.CONFIG))
    model = build_model(tree, seed=tree["seed"])
    load_model(model, alone)
    export(model, tmp_path / "export")
    done = train(
        tmp_path / "run",
        *ZERO_3,
        processes=2,
        config=RELEASED,
        options=(*STILL, f"model.path={tmp_path / 'export'}"),
    )
    assert done.exit_codes == [0, 0], done.output
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(first_loss, rel=1e-5)
