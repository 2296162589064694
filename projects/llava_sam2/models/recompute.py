"""Gradient checkpointing (Chen et al., 2016) of transformers' layers, where it saves anything.

Without re-entrance. transformers recomputes every layer that is in train mode, and a checkpoint
keeps its input for backward even where no backward will come: below the first part that trains, a
layer that simply runs keeps nothing at all.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


def recompute_layers(model: PreTrainedModel) -> None:
    """Recompute the activations of all layers in backward, but of those that need no backward."""
    model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=_run)


def _run(forward: functools.partial, *inputs: Any) -> Any:
    """``forward`` is transformers' partial of a layer's forward, the layer its first argument."""
    (layer,) = forward.args
    given = [tensor for tensor in inputs if isinstance(tensor, Tensor)]
    if any(tensor.requires_grad for tensor in (*given, *layer.parameters())):
        return checkpoint(forward, *inputs, use_reentrant=False)
    return forward(*inputs)
