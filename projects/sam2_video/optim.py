"""Learning rates of SAM 2's fine-tuning: layer-wise decay in the trunk, a rate for the encoder.

Follows the published SAM 2.1 fine-tuning recipe: no weight decay on biases and LayerNorms; block k
of L trunk blocks learns at ``layer_decay ** (L - k)`` of its rate (patch embedding: L + 1), its
position embeddings at the full one.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from projects.common.engine.optim import TrainableGroups

DEFAULTS = {"layer_decay": 1.0, "encoder_lr_mult": 1.0}


class LayerDecayGroups(TrainableGroups):
    """``optim_wrapper.constructor`` for a model that holds one SAM 2.

    ``paramwise_cfg`` takes ``layer_decay`` (1 is off) and ``encoder_lr_mult`` (rate of the whole
    image encoder as a share of the base rate).
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, float] | None = None
    ) -> None:
        paramwise_cfg = paramwise_cfg or {}
        unknown = sorted(set(paramwise_cfg) - set(DEFAULTS))
        if unknown:
            raise ValueError(
                f"optim_wrapper.paramwise_cfg: unknown {unknown}; LayerDecayGroups knows "
                f"{sorted(DEFAULTS)}"
            )
        super().__init__(optim_wrapper_cfg, DEFAULTS | paramwise_cfg)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """One entry per parameter; equal ones are merged by the base class."""
        decay, encoder = (self.paramwise_cfg[key] for key in DEFAULTS)
        blocks = _count_blocks(module)
        plain = _without_weight_decay(module)
        for name, parameter in module.named_parameters():
            rate = self.base_lr
            if ".vision_encoder." in f".{name}":
                rate *= encoder * decay ** _depth_below_top(name, blocks)
            entry: dict[str, Any] = {"params": [parameter], "lr": rate}
            if name in plain:
                entry["weight_decay"] = 0.0
            params.append(entry)


def _count_blocks(module: nn.Module) -> int:
    numbers = [
        int(name.split("backbone.blocks.")[1].split(".")[0])
        for name, _ in module.named_parameters()
        if "backbone.blocks." in name
    ]
    if not numbers:
        raise ValueError("LayerDecayGroups finds no 'backbone.blocks' in the model: not a SAM 2")
    return max(numbers) + 1


def _depth_below_top(name: str, blocks: int) -> int:
    """How often the decay applies: 1 in the last block, ``blocks + 1`` in the patch embedding."""
    if ".backbone." not in f".{name}" or "pos_embed" in name:
        return 0
    if "patch_embed" in name:
        return blocks + 1
    return blocks - int(name.split("backbone.blocks.")[1].split(".")[0])


def _without_weight_decay(module: nn.Module) -> set[str]:
    """Names of biases and of everything in a LayerNorm."""
    names = {name for name, _ in module.named_parameters() if "bias" in name.split(".")[-1]}
    for prefix, part in module.named_modules():
        if isinstance(part, nn.LayerNorm):
            names |= {f"{prefix}.{name}" for name, _ in part.named_parameters()}
    return names
