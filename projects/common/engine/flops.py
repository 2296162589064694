"""FLOPs of a training step, as model FLOPs utilisation (Chowdhery et al., 2022) counts them.

    forward ─► model      backward ─► model, but what it computes once more ─► recomputed

Matrix products, convolutions and attention count by torch's own formulas, a multiplication with its
addition as two; all else is small beside them. Attention counts whole where it is causal, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_FORMULAS = {
    **flop_registry,
    # torch has formulas of the same kernels for GPUs alone
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _ATEN._scaled_dot_product_flash_attention
    ],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}
_SCORES_AGAIN = {
    _ATEN._scaled_dot_product_flash_attention_backward,
    _ATEN._scaled_dot_product_efficient_attention_backward,
    _ATEN._scaled_dot_product_cudnn_attention_backward,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
}


class FlopCount(TorchDispatchMode):
    """Counts while it is on.

    Attributes:
        model: what the losses and their gradients take.
        recomputed: what is computed a second time in backward: checkpointed parts, and the scores
            of attention, which fused kernels do not keep.
        is_backward: set it between forward and backward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = self.recomputed = 0
        self.is_backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = getattr(func, "overloadpacket", func)
        if packet in _FORMULAS:
            self._add(packet, int(_FORMULAS[packet](*args, **kwargs, out_val=out)), args)
        return out

    def _add(self, packet: Any, number: int, args: Any) -> None:
        again = _scores(*args[1:3]) if packet in _SCORES_AGAIN else 0
        if self.is_backward and torch.is_grad_enabled():  # as only recomputed parts are
            again = number
        self.model += number - again
        self.recomputed += again


def _scores(query: torch.Tensor, key: torch.Tensor) -> int:
    """The products of all queries [..., Q, C] with all keys [..., K, C]."""
    return 2 * query.numel() * key.shape[-2]
