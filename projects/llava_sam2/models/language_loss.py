"""The language loss without the logits of a whole batch.

    hidden at supervised positions [n, D] ──► in chunks: lm_head ──► cross entropy ──► sum / count
                                                 └─ made again in backward, one chunk at a time

With a vocabulary of 150 000, the logits of 4 000 tokens are 2.4 GB in float32, and backward wants
them twice. On CUDA, Liger's fused kernel (Hsu et al., 2024) does the same in one pass where it is
installed.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from projects.llava_sam2.models.normalise import mean_count as count_over_ranks
from projects.llava_sam2.models.normalise import most_over_ranks

logger = logging.getLogger(__name__)


class LanguageLoss:
    """Cross entropy of an ``lm_head`` at supervised positions, a chunk of them at a time.

    Args:
        tokens_per_chunk: positions whose logits exist at once.
        fused: Liger's kernel: True, False, or None for "on CUDA, where it is installed". It reads
            the weights of ``lm_head`` directly, so it is not used where ZeRO-3 has them in parts,
            nor with a bias or LoRA there.

    Raises:
        ValueError: no positive chunk, or ``fused=True`` without Liger installed.
    """

    def __init__(self, *, tokens_per_chunk: int = 1024, fused: bool | None = None) -> None:
        if tokens_per_chunk < 1:
            raise ValueError(f"tokens_per_chunk must be at least 1, got {tokens_per_chunk}")
        if fused and not liger_installed():
            raise ValueError(
                "fused=True needs the package liger-kernel, which is not installed: install it, or "
                "leave fused out to compute the loss in chunks"
            )
        self.tokens_per_chunk = tokens_per_chunk
        self.fused = fused
        self._said: bool | None = None

    def __call__(
        self, head: nn.Module, hidden: Tensor, targets: Tensor, *, mean_count: float | None = None
    ) -> Tensor:
        """The mean over the supervised tokens of the global batch.

        Args:
            head: ``lm_head``, hidden states to logits.
            hidden: ``[n, D]`` at supervised positions.
            targets: ``[n]`` int64, the token that each predicts.
            mean_count: tokens per rank and accumulated batch; None counts this batch's.
        """
        count = count_over_ranks(len(targets), hidden.device, known=mean_count)
        if self._use_fused(head, hidden):
            return fused_cross_entropy(head, hidden, targets) / count
        # ZeRO-3 gathers lm_head in each call: all ranks make the same number of them
        most = most_over_ranks(len(targets), hidden.device)
        chunks = max(1, -(-most // self.tokens_per_chunk))
        return chunked_cross_entropy(head, hidden, targets, chunks=chunks) / count

    def _use_fused(self, head: nn.Module, hidden: Tensor) -> bool:
        plain = type(head) is nn.Linear and head.bias is None and not hasattr(head.weight, "ds_id")
        able = hidden.is_cuda and plain and liger_installed()
        use = able and self.fused is not False
        if use != self._said:
            self._said = use
            logger.info("language loss: %s", "Liger's fused kernel" if use else "in chunks")
        return use


def chunked_cross_entropy(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, *, chunks: int
) -> Tensor:
    """Sum of the cross entropies of ``[n, D]`` against ``[n]``, in so many nearly equal parts.

    The logits of several parts are never there together: they are recomputed in backward. One part
    alone is not recomputed.
    """

    def part(states: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(head(states).float(), wanted, reduction="sum")

    if chunks == 1:
        return part(hidden, targets)
    pairs = zip(hidden.tensor_split(chunks), targets.tensor_split(chunks), strict=True)
    sums = [checkpoint(part, *pair, use_reentrant=False) for pair in pairs]
    return torch.stack(sums).sum()


def fused_cross_entropy(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """The same sum by Liger's kernel, in the precision that autocast would use."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    weight = head.weight
    if torch.is_autocast_enabled(hidden.device.type):
        weight = weight.to(torch.get_autocast_dtype(hidden.device.type))
    if not len(targets):  # the kernel wants a token
        return F.linear(hidden.to(weight.dtype), weight).float().sum()
    return LigerFusedLinearCrossEntropyLoss(reduction="sum")(
        weight, hidden.to(weight.dtype), targets
    )


def liger_installed() -> bool:
    return importlib.util.find_spec("liger_kernel") is not None
