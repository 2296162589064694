"""The full-size recipes: short, checked, consistent, and built without weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from projects.common import registry
from projects.common.engine.config import check_config, load_config, plain
from projects.llava_sam2.hf.architectures import RELEASED
from projects.llava_sam2.models.heads import BoxHead

CONFIGS = Path("projects/llava_sam2/configs").resolve()
SIZES = {
    "sa2va_1b": "1B",
    "sa2va_4b": "4B",
    "sa2va_8b": "8B",
    "sa2va_26b": "26B",
    "sa2va_4b_shared": "4B",
    "sa2va_8b_shared": "8B",
}
NAMES = [*SIZES, "sa2va_finetune", "sa2va_qwen2_5_vl_3b"]


def read(name):
    return plain(load_config(CONFIGS / f"{name}.py"))


def all_inputs(tree):
    """What every dataset and benchmark says of tokenizer and template."""
    for entry in tree["train_dataloader"]["datasets"]:
        inputs = entry["dataset"]["inputs"]
        yield inputs.get("inputs", inputs)
    for entry in tree.get("benchmarks", {}).values():
        yield entry["respond"]["inputs"]


@pytest.mark.parametrize("name", NAMES)
def test_a_leaf_is_short(name):
    assert len((CONFIGS / f"{name}.py").read_text().splitlines()) < 40


@pytest.mark.parametrize("name", NAMES)
def test_the_check_asks_for_files_alone_and_passes_with_them(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = read(name)
    with pytest.raises(ValueError, match="does not exist") as found:
        check_config(tree)
    missing = re.findall(r": (\S+) does not exist", str(found.value))
    assert len(missing) == str(found.value).count("\n")  # no mistake of another kind
    for path in sorted(missing, key=len, reverse=True):  # folders after what lies in them
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if not Path(path).exists():
            Path(path).touch()
    check_config(tree)


@pytest.mark.parametrize("name", NAMES)
def test_model_and_data_speak_alike(name):
    tree = read(name)
    mllm = tree["model"].get("mllm", tree["model"])
    assert mllm["path"] == mllm["tokenizer"]["path"]
    for inputs in all_inputs(tree):
        assert inputs["template"] == mllm["template"]
        assert inputs["tokenizer"] == mllm["tokenizer"]


@pytest.mark.parametrize("name", SIZES)
def test_it_builds_on_the_meta_device(name):
    tree = read(name)
    size = SIZES[name]
    model = tree["model"]
    model["mllm"].update(path=None, size=size, tokenizer=None)
    model["grounding"].update(checkpoint=None)
    inputs = next(all_inputs(tree))
    with torch.device("meta"):
        built = registry.build(model)
    mllm = built.mllm
    assert mllm.hidden_size == RELEASED[size]["llm_config"]["hidden_size"]
    assert mllm.image_tokens_per_tile == inputs["tokens_per_tile"]
    assert mllm.tile_size == inputs["tiles"]["size"]
    for head in built.heads.values():
        if hasattr(head, "text_hidden_fcs"):
            assert head.text_hidden_fcs[0].in_features == mllm.hidden_size
            assert head.text_hidden_fcs[2].out_features == built.grounding.hidden
        if hasattr(head, "projector"):
            assert head.projector.out == mllm.hidden_size
    trains = [name for name, p in built.named_parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in built.parameters() if p.requires_grad)
    assert not [name for name in trains if "vision_tower" in name or "propagation" in name]
    assert not [name for name in trains if "token_attn" in name]  # frozen, as in SeC
    assert not [name for name in trains if "grounding" in name and "mask_decoder" not in name]
    layers = RELEASED[size]["llm_config"]["num_hidden_layers"]
    assert sum("lora_A" in name for name in trains) == 7 * layers
    assert any("lm_head" in name for name in trains)
    assert any("multi_modal_projector" in name for name in trains)
    assert any("embed_tokens" in name for name in trains)


def test_the_shared_recipe_has_every_task_and_the_weights_of_the_reference_run():
    tree = read("sa2va_4b_shared")
    loader = tree["train_dataloader"]
    rows = {
        entry["dataset"].get("rows", {}).get("type", entry["dataset"]["type"]).__name__: entry
        for entry in loader["datasets"]
    }
    assert rows["revos_rows"]["repeat"] == 8 and rows["mevis_rows"]["repeat"] == 8
    assert rows["ref_ytvos_rows"]["repeat"] == rows["charades_rows"]["repeat"] == 4
    assert rows["didemo_rows"]["repeat"] == 4
    assert {"ConceptDataset", "box_rows"} <= set(rows)
    assert rows["mevis_rows"]["dataset"]["frames"]["num"] == 6
    assert (loader["batch_size"], tree["optim_wrapper"]["accumulative_counts"]) == (2, 4)
    assert tree["train_cfg"] == {"max_epochs": 10}
    heads = tree["model"]["heads"]
    assert set(heads) == {"segment", "concept", "box", "temporal", "chat"}
    assert heads["box"]["type"] is BoxHead  # and not a chat head, which asks for no pictures
