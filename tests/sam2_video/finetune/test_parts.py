"""Which parameters train, by the names of the page."""

from __future__ import annotations

import pytest
import torch

from projects.common import registry
from projects.common.engine.config import load_config, plain
from projects.common.freezing import merge_lora
from projects.sam2_video.finetune.parts import LORA_TARGETS, MODULES, adapted_sam2
from projects.sam2_video.finetune.prepare import prepare, with_overrides
from projects.sam2_video.finetune.yaml_page import read_page
from projects.sam2_video.modeling.blocks import Sam2, build_sam2
from projects.sam2_video.modeling.config import sam2_config
from projects.sam2_video.toy import toy_sam2


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_parts_cover_the_model_once():
    """What no part names would never train; what two name would be frozen by neither."""
    names = {name for name, _ in toy_sam2().named_parameters()}
    parts = set(MODULES) - {"all", "image_encoder.trunk", "image_encoder.neck"}
    chosen = {part: trained(adapted_sam2(sam2=toy_sam2(), trainable=[part])) for part in parts}
    counted = [name for selected in chosen.values() for name in selected]
    assert sorted(counted) == sorted(names - {"blocks.no_memory_positional_encoding"})
    assert trained(adapted_sam2(sam2=toy_sam2(), trainable=["all"])) == set(counted)
    trunk, neck = (
        trained(adapted_sam2(sam2=toy_sam2(), trainable=[f"image_encoder.{part}"]))
        for part in ("trunk", "neck")
    )
    assert trunk | neck == chosen["image_encoder"] and not trunk & neck


def test_a_mask_decoder_alone():
    with torch.device("meta"):
        model = build_sam2(sam2_config("tiny"))
    adapted_sam2(sam2=model, trainable=["mask_decoder"])
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == sum(p.numel() for p in model.blocks.mask_decoder.parameters())
    assert all(name.startswith("blocks.mask_decoder.") for name in trained(model))


def test_lora_adds_matrices_and_changes_nothing_before_training():
    frames = torch.randint(0, 255, (1, 3, 96, 96), dtype=torch.uint8)
    plain = toy_sam2().eval()
    adapted = adapted_sam2(
        sam2=toy_sam2(), trainable=["mask_decoder"], lora_rank=2, lora_modules=list(LORA_TARGETS)
    ).eval()
    names = trained(adapted)
    lora = {name for name in names if ".lora_" in name}
    assert lora and all(".mask_decoder." in name for name in names - lora)
    for part in ("vision_encoder.backbone", "mask_decoder", "memory_attention", "object_pointer"):
        assert any(f"{part}" in name for name in lora), part
    with torch.no_grad():
        before, after = (m.encode_frames(frames).embed for m in (plain, adapted))
        assert torch.equal(before, after)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        changed = adapted.encode_frames(frames).embed
        merge_lora(adapted)
        merged = adapted.encode_frames(frames).embed
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.allclose(merged, changed, atol=1e-4)
    assert set(adapted.state_dict()) == set(plain.state_dict())


def test_unknown_parts_and_nothing_to_train_are_refused():
    with pytest.raises(ValueError, match="memory_attn"):
        adapted_sam2(sam2=toy_sam2(), trainable=["memory_attn"])
    with pytest.raises(ValueError, match="nothing would train"):
        adapted_sam2(sam2=toy_sam2(), trainable=[])


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_pages_of_every_size_build(size, tiny_page, tmp_path):
    """What the config of a released size builds, but for the weights."""
    weights = tmp_path / "weights.pt"
    weights.touch()
    changes = {
        "model.size": size,
        "model.checkpoint": str(weights),
        "model.image_size": 1024,
        "model.memory_slots": 22,
        "model.drop_path": 0.1,
        "model.trainable": ["mask_decoder", "memory_attention"],
        "model.lora": {"rank": 4},
        "memory.checkpointing": ["encoder"],
    }
    run = prepare(with_overrides(read_page(tiny_page()), changes))
    tree = plain(load_config(run.config))["model"]
    assert tree["sam2"]["sam2"]["checkpoint"] == str(weights)
    tree["sam2"]["sam2"]["checkpoint"] = None
    with torch.device("meta"):
        model = registry.build(tree)
    assert (model.sam2.image_size, model.sam2.num_maskmem) == (1024, 22)
    parts = {".".join(name.split(".")[2:4]) for name in trained(model)}
    assert parts >= {"vision_encoder.backbone", "mask_decoder.transformer"}
    encoder = [name for name in trained(model) if ".vision_encoder." in name]
    assert encoder and all(".attn.qkv.lora_" in name for name in encoder)


def test_compile_of_the_page_reaches_the_model(tiny_page, tmp_path, monkeypatch):
    """Compiling itself takes minutes; what it changes is tested with the model."""
    compiled = []
    monkeypatch.setattr(Sam2, "compile_parts", lambda self: compiled.append(self))
    for wanted in (False, True):
        changes = {"model.compile": wanted, "output": str(tmp_path / str(wanted))}
        run = prepare(with_overrides(read_page(tiny_page()), changes))
        model = registry.build(plain(load_config(run.config))["model"])
        assert compiled == ([model.sam2] if wanted else [])
