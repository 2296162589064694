"""A model of transformers with random weights, one module at a time.

    config ─► model on the meta device ─► module by module: values, cast, cut ─► model, ready

The values are those of transformers' own start. Where ZeRO-3 trains, each module is cut as soon as
it has them, so that no rank ever holds the whole model.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from projects.common.partition import cut
from projects.llava_sam2.models.weights import cast_weights


def random_model(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, *, dtype: torch.dtype
) -> PreTrainedModel:
    """``model_class(config)`` in that precision, on the default device.

    Under ``torch.device("meta")`` it stays there, for counting parameters.
    """
    device = torch.get_default_device()
    with torch.device("meta"):
        model = model_class(config)
    if device.type == "meta":
        return cast_weights(model, dtype)
    _start(model, model, device, dtype)
    model.tie_weights()
    rebuild_tables(model)
    return model


def rebuild_tables(model: nn.Module) -> None:
    """Tables that are computed, not stored, were left on the meta device: make them anew.

    Raises:
        RuntimeError: something is left there that this does not know.
    """
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module._buffers.values() if buffer is not None):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, type(module)(config=module.config))
    left = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if left:
        raise RuntimeError(f"never filled: {', '.join(left[:5])}")


def _start(
    module: nn.Module, owner: PreTrainedModel, device: torch.device, dtype: torch.dtype
) -> None:
    """The module's children first; ``owner`` is the model around it, which knows how it starts."""
    for child in module.children():
        _start(child, child if isinstance(child, PreTrainedModel) else owner, device, dtype)
    fresh = {
        name: nn.Parameter(torch.empty(parameter.shape, device=device))
        for name, parameter in module._parameters.items()
        if parameter is not None
    }
    module._parameters.update(fresh)
    owner._init_weights(module)
    for parameter in fresh.values():
        parameter.data = parameter.data.to(dtype)
    cut(fresh.values())
