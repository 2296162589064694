"""The full-size recipes: short, checked, consistent, and built without weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from projects.common import registry
from projects.common.engine.check import check_config
from projects.common.engine.config import load_config, plain
from projects.llava_sam2.hf.architectures import RELEASED
from projects.llava_sam2.hf.qwen_vl_sizes import QWEN_VL
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
QWEN_SIZES = {  # size, and its parameters as released
    "sa2va_qwen2_5_vl_3b": ("Qwen2.5-VL-3B", 3_754_622_976),
    "sa2va_qwen3_vl_2b": ("Qwen3-VL-2B", 2_127_532_032),
    "sa2va_qwen3_vl_4b": ("Qwen3-VL-4B", 4_437_815_808),
}
NAMES = [*SIZES, *QWEN_SIZES, "sa2va_finetune"]


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


def on_meta(tree, size):
    """The model of a config with random weights of a released size, on the meta device."""
    model = tree["model"]
    model["mllm"].update(path=None, size=size, tokenizer=None)
    model["grounding"].update(checkpoint=None)
    with torch.device("meta"):
        return registry.build(model)


@pytest.mark.parametrize("name", [*SIZES, *QWEN_SIZES])
def test_it_builds_on_the_meta_device(name):
    tree = read(name)
    size, parameters = QWEN_SIZES.get(name, (SIZES.get(name), None))
    built = on_meta(tree, size)
    mllm, qwen = built.mllm, parameters is not None
    text = QWEN_VL[size]["text_config"] if qwen else RELEASED[size]["llm_config"]
    assert mllm.hidden_size == text["hidden_size"]
    seen = [inputs for inputs in all_inputs(tree) if "tiles" in inputs]  # not temporal features
    for inputs in seen:
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
    for frozen in ("vision_tower", ".visual.", "propagation"):
        assert not [name for name in trains if frozen in name]
    assert not [name for name in trains if "token_attn" in name]  # frozen, as in SeC
    assert not [name for name in trains if "grounding" in name and "mask_decoder" not in name]
    assert sum("lora_A" in name for name in trains) == 7 * text["num_hidden_layers"]
    # Qwen-VL's small sizes have words and lm_head in one table, and a merger within the tower
    assert any("lm_head" in name for name in trains) != qwen
    assert any("multi_modal_projector" in name for name in trains) != qwen
    assert any("embed_tokens" in name for name in trains)
    if qwen:
        assert {mllm.patch * mllm.merge} == {inputs["tiles"]["token"] for inputs in seen}
        language = dict(mllm.model.named_parameters())
        own = sum(p.numel() for name, p in language.items() if "lora_" not in name)
        assert own == parameters


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
