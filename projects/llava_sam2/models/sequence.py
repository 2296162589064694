"""A language model over the ranks of a sequence group, on transformers' interface for attention.

    inputs [B, L, D] ──split──► decoder layers on [B, L / P, D] ──gather──► hidden [B, L, D]

See :mod:`projects.common.sequence`. Texts are padded on the right, so that causal attention needs
no mask: no token sees the padding behind it. What DeepStack adds to the visual tokens of the first
layers goes to the rank that has the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from projects.common import sequence

ATTENTION = "sequence_parallel"
_SPLIT = ("inputs_embeds", "attention_mask", "position_ids")
_PLACES, _DEEPER = "visual_pos_masks", "deepstack_visual_embeds"  # Qwen3-VL's


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    in_parts: bool = False,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface: all tokens of some heads, or ``sdpa`` as it is.

    Args:
        query, key, value: ``[B, heads, L, d]``; ``[B, heads, L / P, d]`` with ``in_parts``.

    Returns:
        ``[B, L, heads, d]``, or ``[B, L / P, heads, d]``.
    """
    if not in_parts:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    query, key, value = (sequence.exchange(x, scatter=1, gather=2) for x in (query, key, value))
    out, _ = sdpa_attention_forward(module, query, key, value, None, **options)
    return sequence.exchange(out, scatter=1, gather=2), None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def check_language(config: PreTrainedConfig, *, where: str) -> None:
    """A language model that can be shared out, where the run has groups; nothing without.

    Raises:
        ValueError: heads that the ranks of a group cannot share evenly, or a sliding window.
    """
    ranks = sequence.size()
    heads = (config.num_attention_heads, config.num_key_value_heads)
    if any(count % ranks for count in heads):
        raise ValueError(
            f"{where}: sequence_parallel_size {ranks} must divide the {heads[0]} heads of the "
            f"language model and its {heads[1]} for keys and values"
        )
    if ranks > 1 and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ValueError(f"{where}: sequence_parallel_size goes with full attention alone")


def prepare(language_model: Any) -> None:
    """Let a built language model attend over the group; nothing where the run has none.

    Raises:
        ValueError: as :func:`check_language`, or an attention other than ``sdpa``.
    """
    if sequence.size() == 1:
        return
    config = language_model.config
    check_language(config, where=type(language_model).__name__)
    if config._attn_implementation != "sdpa":
        raise ValueError(
            f"sequence_parallel_size goes with attn='sdpa', not {config._attn_implementation!r}"
        )
    language_model.set_attn_implementation(ATTENTION)


def run_in_parts(language_model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Hidden states ``[B, L, D]`` of ``inputs`` (:meth:`LanguageAdapter.inputs`), on every rank.

    Raises:
        ValueError: padding on the left, or inputs of the layers that this does not know.
    """
    further = sorted(set(inputs) - {*_SPLIT, _PLACES, _DEEPER})
    if further:
        raise ValueError(
            f"sequence_parallel_size does not go with {type(language_model).__name__}, whose "
            f"layers take {', '.join(further)} too"
        )
    embeds, mask, positions = (inputs[name] for name in _SPLIT)
    if not mask[:, 0].all():
        raise ValueError("sequence_parallel_size wants texts that are padded on the right")
    length = embeds.shape[1]
    extra = -length % sequence.size()
    part = sequence.split(F.pad(embeds, (0, 0, 0, extra)), 1)
    hidden = language_model(
        inputs_embeds=part,
        attention_mask=mask.new_ones(part.shape[:2]),  # attend() needs none
        position_ids=sequence.split(F.pad(positions, (0, extra)), -1),
        use_cache=False,
        in_parts=True,
        **_own_visual(inputs, extra),
    ).last_hidden_state
    return sequence.gather(hidden, 1)[:, :length]


def _own_visual(inputs: Mapping[str, Any], extra: int) -> dict[str, Any]:
    """DeepStack's features of the visual tokens in this rank's part; nothing without DeepStack."""
    if _PLACES not in inputs:
        return {}
    places = inputs[_PLACES]
    numbers = (places.flatten().cumsum(0) - 1).view_as(places)  # of the visual token at a place
    places, numbers = (sequence.split(F.pad(x, (0, extra)), 1) for x in (places, numbers))
    return {_PLACES: places, _DEEPER: [layer[numbers[places]] for layer in inputs[_DEEPER]]}
