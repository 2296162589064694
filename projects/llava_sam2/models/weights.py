"""What is done to the weights of transformers' models before they train: precision, vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from projects.common.partition import cut, whole


def rotary_tables(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Inverse frequencies of rotary positions, with the modules that hold them and their names."""
    return [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if name.endswith("inv_freq") and buffer is not None
    ]


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The parameters in another precision, in place; rotary tables stay as precise as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def grow_vocabulary(model: PreTrainedModel, size: int) -> None:
    """Give the embeddings and lm_head at least ``size`` rows; new ones are the mean of the old."""
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    if size <= words.num_embeddings:
        return
    tied = head.weight is words.weight
    words.weight = _with_rows(words.weight, size)
    head.weight = words.weight if tied else _with_rows(head.weight, size)
    words.num_embeddings = head.out_features = size
    model.config.get_text_config().vocab_size = size


@torch.no_grad()
def _with_rows(table: nn.Parameter, size: int) -> nn.Parameter:
    """``[n, D]`` as ``[size, D]``; where ZeRO-3 has cut it, the result is cut as well."""
    with whole([table]):
        fresh = table.mean(0, keepdim=True).expand(size - len(table), -1)
        grown = nn.Parameter(torch.cat([table, fresh]), requires_grad=table.requires_grad)
    cut([grown])
    return grown
