"""Learning rates by depth, against the recipe's numbers."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper

from projects.sam2_video.optim import LayerDecayGroups
from projects.sam2_video.toy import toy_sam2


def groups_of(model, **paramwise):
    constructor = LayerDecayGroups(
        dict(type=OptimWrapper, optimizer=dict(type=torch.optim.AdamW, lr=1.0, weight_decay=0.1)),
        paramwise,
    )
    optimizer = constructor(model).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }, len(optimizer.param_groups)


def test_rates_fall_with_depth():
    model = toy_sam2()
    settings, count = groups_of(model, layer_decay=0.9, encoder_lr_mult=0.6)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(settings) == trainable
    trunk = "blocks.vision_encoder.backbone."
    # the toy trunk has 4 blocks
    for block in range(4):
        rate = settings[f"{trunk}blocks.{block}.attn.qkv.weight"][0]
        assert rate == pytest.approx(0.6 * 0.9 ** (4 - block))
    assert settings[f"{trunk}patch_embed.projection.weight"][0] == pytest.approx(0.6 * 0.9**5)
    assert settings[f"{trunk}pos_embed"][0] == settings[f"{trunk}pos_embed_window"][0] == 0.6
    assert settings["blocks.vision_encoder.neck.convs.0.weight"][0] == 0.6
    assert settings["blocks.mask_decoder.iou_token.weight"] == (1.0, 0.1)
    assert count <= 15  # ZeRO pays per group


def test_biases_and_norms_do_not_decay():
    settings, _ = groups_of(toy_sam2())
    norms = [n for n in settings if "layer_norm" in n]
    assert norms and all(settings[name][1] == 0 for name in norms)
    assert all(settings[n][1] == 0 for n in settings if n.endswith("bias"))
    assert settings["blocks.vision_encoder.backbone.blocks.0.attn.qkv.weight"] == (1.0, 0.1)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="layer_dekay"):
        groups_of(toy_sam2(), layer_dekay=0.9)
    with pytest.raises(ValueError, match="not a SAM 2"):
        groups_of(torch.nn.Linear(2, 2), layer_decay=0.9)
