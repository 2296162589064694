"""The toy config on a very small toy world: parts that fit one another, data that reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from projects.common import registry
from projects.common.engine.check import check_config
from projects.common.engine.config import load_config, plain
from projects.common.samplers import Draw
from projects.llava_sam2.warm_start import sam2_from_stage1
from projects.sam2_video.toy import toy_sam2
from projects.sam2_video.train_model import Sam2VideoTraining
from projects.toy_world.generate import generate
from projects.toy_world.world import FULL, World

CONFIG = Path(__file__).parents[3] / "projects/llava_sam2/configs/toy.py"


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    root = tmp_path_factory.mktemp("world") / "toy"
    generate(World(seed=0, sizes=dict.fromkeys(FULL, 6)), root)
    before = {name: os.environ.pop(name, None) for name in ("DATA_ROOT", "STAGE1")}
    cfg = load_config(CONFIG, {"data_root": str(root)})
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    return cfg


@pytest.fixture(scope="module")
def tree(cfg):
    return plain(cfg)


@pytest.fixture(scope="module")
def model(tree):
    return registry.build(tree["model"])


@pytest.fixture(scope="module")
def datasets(tree):
    return [part["dataset"] for part in registry.build(tree["train_dataloader"]["datasets"])]


def test_it_has_no_mistakes_and_reloads_from_its_dump(cfg, tree, tmp_path):
    check_config(tree)
    cfg.dump(tmp_path / "toy.py")
    again = Config.fromfile(tmp_path / "toy.py")
    assert set(again.benchmarks) == set(tree["benchmarks"])
    respond = again.benchmarks.refcoco_val.respond
    assert registry.resolve(respond.type) is tree["benchmarks"]["refcoco_val"]["respond"]["type"]


def test_the_data_is_made_for_this_model(model, datasets):
    for dataset in datasets:
        inputs = getattr(dataset, "inputs", None)
        if inputs is None:
            continue
        assert inputs.template == model.mllm.template
        assert inputs.tokenizer.get_vocab() == model.mllm.tokenizer.get_vocab()
        if dataset.task != "temporal":
            assert inputs.tokens_per_tile == model.mllm.image_tokens_per_tile
            assert inputs.tiles.size == model.mllm.tile_size
            assert inputs.grounding_size == model.grounding.image_size


def test_every_dataset_has_a_head_that_learns_from_it(tree, model, datasets):
    assert {dataset.task for dataset in datasets} == set(model.heads)
    collate = tree["train_dataloader"]["collate"]
    for dataset in datasets:
        batch = collate([dataset[Draw(0, index, index)] for index in range(2)])
        losses = model.loss(batch)
        assert all(torch.isfinite(loss) for loss in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        trained = {name for name, p in model.named_parameters() if p.grad is not None}
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained == trainable or tree["find_unused_parameters"]  # or plain DDP would stop
        head = f"heads.{dataset.task}."
        assert all(name in trained for name, _ in model.named_parameters() if name.startswith(head))
        uses_words = dataset.task not in ("track", "category")
        assert any(name.startswith("mllm.") for name in trained) == uses_words
        uses_sam2 = dataset.task in ("segment", "track", "category")
        assert any(name.startswith("grounding.") for name in trained) == uses_sam2


def test_no_word_of_the_data_is_unknown(datasets):
    for dataset in datasets:
        for index in range(len(dataset)):
            sample = dataset[index]
            if hasattr(sample, "input_ids"):
                unknown = dataset.inputs.tokenizer.unk_token_id
                assert unknown not in sample.input_ids.tolist(), sample.name


def test_baselines_and_ablations_ask_what_the_model_is_asked(tree):
    benchmarks = tree["benchmarks"]
    for name, benchmark in benchmarks.items():
        stem = name.split("_baseline_")[0].removesuffix("_no_visual")
        for key in ("type", "rows", "labels"):
            assert benchmark[key] == benchmarks[stem][key], name
    assert benchmarks["refcoco_val_no_visual"]["respond"]["use_visual"] is False


def test_stage_1_weights_reach_the_grounded_model(tmp_path):
    trained = Sam2VideoTraining(sam2=toy_sam2(seed=1), unroll=None)
    state = {name: p for name, p in trained.named_parameters() if p.requires_grad}
    state |= {n: b for n, b in trained.named_buffers() if n in trained.state_dict()}
    torch.save(state, tmp_path / "model.pth")
    fresh = toy_sam2(seed=0)
    loaded = sam2_from_stage1(sam2=fresh, checkpoint=tmp_path / "model.pth")
    for name, value in trained.sam2.state_dict().items():
        if "no_memory_positional_encoding" not in name:
            assert torch.equal(loaded.state_dict()[name], value), name
    with pytest.raises(FileNotFoundError, match=r"nothing"):
        sam2_from_stage1(sam2=fresh, checkpoint=tmp_path / "nothing")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        sam2_from_stage1(sam2=fresh, checkpoint=tmp_path / "other.pth")
