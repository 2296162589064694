"""What users get wrong is told by name before any data or weights are read."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file, save_file
from torch.optim import AdamW

from projects.common import registry
from projects.common.conversation import load_shared_tokenizer, load_tokenizer
from projects.common.engine.check import check_build, check_fit
from projects.common.registry import ConfigError
from projects.llava_sam2.datasets.collate import collate
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import DynamicTiles
from projects.llava_sam2.hf.internvl import internvl_from_folder
from projects.llava_sam2.models.heads import ChatHead, SegmentHead, TemporalHead, seg_projector
from projects.llava_sam2.models.heads.temporal import FeatureProjector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.sam2_video.toy import toy_sam2
from tests.llava_sam2.hf import original
from tools import train

INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00003.safetensors"
TOKENIZER = "tokenizer_config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small InternVL2.5 in its original layout."""
    folder = tmp_path_factory.mktemp("weights") / "InternVL"
    config = original.numbers("qwen2", "300m")
    config["llm_config"]["vocab_size"] = original.write_qwen2_tokenizer(folder)
    original.write_folder(folder, config, original.random_state(config))
    return folder


@pytest.fixture
def folder(tmp_path, whole):
    """A copy to break."""
    return shutil.copytree(whole, tmp_path / "broken")


def model_tree(folder):
    """The ``model`` of a config, as ``plain`` gives it."""
    return dict(
        type=Sa2VA,
        mllm=dict(
            type=internvl_from_folder,
            path=str(folder),
            tokenizer=dict(type=load_shared_tokenizer, path=str(folder)),
            template="qwen_chat",
        ),
        grounding=dict(type=toy_sam2),
        heads=dict(
            segment=dict(type=SegmentHead, projector=dict(type=seg_projector, hidden=32, out=64)),
            chat=dict(type=ChatHead),
            temporal=dict(
                type=TemporalHead,
                projector=dict(
                    type=FeatureProjector, features=8, hidden=8, expanded=8, blocks=1, out=32
                ),
            ),
        ),
        lora=dict(rank=2, alpha=4, targets=["self_attn.*_proj"]),
        trainable=["heads", "mllm.model.lm_head"],
    )


def changed(tree, **changes):
    """``mllm__dtype=...`` for the key ``mllm.dtype``."""
    tree = copy.deepcopy(tree)
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = tree
        for key in parents:
            inner = inner[key]
        inner[last] = value
    return tree


# ---- folders of weights ------------------------------------------------------------------------


def rewrite(file, change):
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said))


def place(folder, where):
    rewrite(folder / INDEX, lambda said: said["weight_map"].update({"mlp1.3.bias": where}))


def without_image_tokens(folder):
    for name in ("added_tokens.json", TOKENIZER):
        (folder / name).unlink()


def a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def cut_short(folder):
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-99])


def lose_a_tensor(folder):
    state = load_file(folder / SHARD)
    lost = next(iter(state))
    save_file({key: value for key, value in state.items() if key != lost}, folder / SHARD)


def another_models(folder):
    rewrite(folder / "config.json", lambda said: said.update(model_type="sam2", architectures=[]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty, "holds no tokenizer"),
        (a_file, "no tokenizer folder at"),
        (another_models, "config.json is of a 'sam2'"),
        (lambda f: (f / SHARD).unlink(), f"lacks 1 of 3 shards .*{SHARD}"),
        (cut_short, f"{SHARD} is not a whole safetensors file"),
        (lose_a_tensor, f"places 1 tensors in {SHARD} that it lacks"),
        (lambda f: place(f, "model-00009.safetensors"), "lacks 1 of 4 shards .*model-00009"),
        (lambda f: place(f, "../other.safetensors"), "not a file of its own folder"),
        (lambda f: place(f, 3), "names 3, which is not a file|is not an index"),
        (lambda f: (f / INDEX).write_text('{"weight_map": ["a"]}'), f"{INDEX} is not an index"),
        (lambda f: (f / INDEX).write_text("{"), f"{INDEX} is not an index"),
        (without_image_tokens, "tokenizer lacks <img>, <IMG_CONTEXT>, </img>"),
        (lambda f: (f / "merges.txt").unlink(), "holds no tokenizer"),
        (lambda f: (f / "vocab.json").write_text("{"), "tokenizer's files cannot be read"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer's files cannot be read"),
        (lambda f: (f / TOKENIZER).write_text("[]"), f"{TOKENIZER} holds a list"),
        (
            lambda f: rewrite(f / TOKENIZER, lambda s: s.update(added_tokens_decoder={"x": "a"})),
            "added_tokens_decoder has 'x'",
        ),
    ],
)
def test_folders(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ConfigError, match=rf"1 mistake:\n  model.mllm: .*{message}"):
        check_build({"model": model_tree(folder)})


def test_a_tokenizer_of_another_folder(folder, whole):
    """Its ids lie within the embeddings, on other rows."""
    rewrite(folder / "vocab.json", lambda said: said.update({"extra": 261}))
    without_image_tokens(folder)
    tree = changed(model_tree(whole), mllm__tokenizer__path=str(folder))
    with pytest.raises(ConfigError, match=r"its own tokenizer calls <img> 264, .* otherwise"):
        check_build({"model": tree})


# ---- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mllm__template="qwen9"), "model.mllm: no chat template 'qwen9'; there are"),
        (dict(lora__targets=["attention.wqkv"]), "LoRA target 'attention.wqkv' matches no linear"),
        (dict(lora__ranks=3), "lora: .*'ranks'; it takes rank, alpha, targets and dropout"),
        (dict(trainable=["headz"]), "'headz' matches no parameter; near names: heads"),
        (dict(heads__segment__projector__hidden=48), "leads from 48 to 64 .*say hidden=32, out=64"),
        (dict(heads__segment__projector__out=32), "leads from 32 to 32 .*say hidden=32, out=64"),
        (dict(heads__temporal__projector__out=48), "head 'temporal' gives tokens of 48 .*out=32"),
    ],
)
def test_settings_of_the_model(whole, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_build({"model": changed(model_tree(whole), **changes)})


def test_parts_are_told_all_at_once(whole):
    projector = dict(type=FeatureProjector, features=8, out=31)
    spoilt = dict(mllm__dtype="float8", heads__temporal__projector=projector)
    with pytest.raises(ConfigError, match="2 mistakes:\n  model.mllm: .*\n  model.heads: .*even"):
        check_build({"model": changed(model_tree(whole), **spoilt)})


def test_nothing_is_read_or_drawn(whole, monkeypatch):
    monkeypatch.setattr("projects.llava_sam2.hf.internvl.fill", lambda *a, **k: pytest.fail("read"))
    before = torch.get_rng_state()
    model = check_build({"model": model_tree(whole)})
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


INPUTS = dict(
    tiles=dict(type=DynamicTiles, size=56, max_tiles=3),
    template="qwen_chat",
    tokens_per_tile=4,
    grounding_size=96,
    max_length=512,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(), None),
        (dict(task="box"), "no head for its task 'box'; the model has segment, chat, temporal"),
        (dict(template="vicuna"), "template 'vicuna', the model's is 'qwen_chat'"),
        (dict(tokens_per_tile=16), "tokens_per_tile 16, the model takes 4"),
        (dict(tiles__size=112), "tiles of size 112, the model takes 56"),
        (dict(grounding_size=128), "grounding_size 128, the model takes 96"),
    ],
)
def test_datasets_that_show_or_say_otherwise(whole, changes, message):
    task = changes.pop("task", "segment")
    tree = changed(INPUTS, **changes) | dict(tokenizer=load_tokenizer(whole))  # fewer words: fits
    inputs = GroundingInputs(**registry.build(tree))
    model = check_build({"model": model_tree(whole)})
    datasets = [SimpleNamespace(task=task, inputs=SimpleNamespace(inputs=inputs))]
    if message is None:
        check_fit(model, ["mine"], datasets)
        return
    with pytest.raises(ConfigError, match=f"1 mistake:\n  .*dataset mine: {message}"):
        check_fit(model, ["mine"], datasets)


def test_a_dataset_with_another_tokenizer(whole, folder):
    rewrite(folder / "vocab.json", lambda said: said.update({"extra": 261}))
    without_image_tokens(folder)
    inputs = GroundingInputs(**registry.build(INPUTS), tokenizer=load_shared_tokenizer(folder))
    model = check_build({"model": model_tree(whole)})
    datasets = [SimpleNamespace(task="segment", inputs=inputs)]
    with pytest.raises(ConfigError, match="words other ids than the model's.*from the same folder"):
        check_fit(model, ["mine"], datasets)


# ---- the command -------------------------------------------------------------------------------


def no_rows(*, file: str):
    raise FileNotFoundError(f"{file} is not there")


@pytest.fixture
def run_config(folder, tmp_path, monkeypatch):
    """Runs tools/train.py on a config whose two datasets cannot be built."""
    rows = [dict(dataset=dict(type=no_rows, file=name)) for name in ("a.json", "b.json")]
    tree = dict(
        model=model_tree(folder),
        train_dataloader=dict(datasets=rows, batch_size=1, num_workers=0, collate=collate),
        train_cfg=dict(max_steps=1),
        optim_wrapper=dict(optimizer=dict(type=AdamW, lr=1e-3)),
    )
    monkeypatch.setattr(train, "load_config", lambda *a: Config(tree))
    monkeypatch.setattr(sys, "argv", ["train.py", "mine.py", "--work-dir", str(tmp_path / "run")])
    return train.main


def test_the_command_ends_with_the_message_before_data_are_read(run_config, folder, tmp_path):
    (folder / SHARD).unlink()
    with pytest.raises(SystemExit, match=rf"^mine.py: .*1 mistake:\n  model.mllm: .*{SHARD}$"):
        run_config()
    assert not (tmp_path / "run").exists()


def test_datasets_are_told_all_at_once_before_weights_are_read(run_config, monkeypatch):
    monkeypatch.setattr("projects.llava_sam2.hf.internvl.fill", lambda *a, **k: pytest.fail("read"))
    place = r"train_dataloader.datasets\[{}\].dataset: {}.json is not there"
    both = f"2 mistakes:\n  {place.format(0, 'a')}\n  {place.format(1, 'b')}"
    with pytest.raises(SystemExit, match=both):
        run_config()
