"""Names of InternVL's original checkpoints, and of transformers' classes, both ways.

    vision_model.*    InternViT (Chen et al., 2024)     -> model.vision_tower.*
    mlp1.{0,1,3}.*    the projector                     -> model.multi_modal_projector.*
    language_model.*  Qwen2 or Llama, by other prefixes -> model.language_model.*, lm_head.*
                      InternLM2 (Cai et al., 2024), whose wqkv lies grouped by key-value head

Fused matrices are the one thing beside names: InternViT stacks query, key and value; InternLM2
gives each key-value head its queries, then its key, then its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import InternVLConfig, LlamaConfig

from projects.common.checkpoint import Rename, State, name_rule, rename

_VISION = tuple(
    (f"vision_model.{theirs}", f"model.vision_tower.{ours}")
    for theirs, ours in (
        ("embeddings.class_embedding", "embeddings.cls_token"),
        ("embeddings.position_embedding", "embeddings.position_embeddings"),
        ("embeddings.patch_embedding@", "embeddings.patch_embeddings.projection@"),
        ("encoder.layers.#.ls1", "encoder.layer.#.lambda_1"),
        ("encoder.layers.#.ls2", "encoder.layer.#.lambda_2"),
        ("encoder.layers.#.norm1@", "encoder.layer.#.layernorm_before@"),
        ("encoder.layers.#.norm2@", "encoder.layer.#.layernorm_after@"),
        ("encoder.layers.#.attn.proj@", "encoder.layer.#.attention.projection_layer@"),
        ("encoder.layers.#.attn.q_norm@", "encoder.layer.#.attention.q_norm@"),
        ("encoder.layers.#.attn.k_norm@", "encoder.layer.#.attention.k_norm@"),
        ("encoder.layers.#.mlp.fc1@", "encoder.layer.#.mlp.fc1@"),
        ("encoder.layers.#.mlp.fc2@", "encoder.layer.#.mlp.fc2@"),
    )
)
_PROJECTOR = (
    ("mlp1.0@", "model.multi_modal_projector.layer_norm@"),
    ("mlp1.1@", "model.multi_modal_projector.linear_1@"),
    ("mlp1.3@", "model.multi_modal_projector.linear_2@"),
)
_LAYER = "model.language_model.layers.#."
_INTERNLM2 = (
    ("language_model.model.tok_embeddings@", "model.language_model.embed_tokens@"),
    ("language_model.model.norm@", "model.language_model.norm@"),
    ("language_model.output@", "lm_head@"),
    *(
        (f"language_model.model.layers.#.{theirs}@", f"{_LAYER}{ours}@")
        for theirs, ours in (
            ("attention.wo", "self_attn.o_proj"),
            ("feed_forward.w1", "mlp.gate_proj"),
            ("feed_forward.w3", "mlp.up_proj"),
            ("feed_forward.w2", "mlp.down_proj"),
            ("attention_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
        )
    ),
)
_QWEN2 = (  # transformers' own names, one level deeper
    ("language_model.lm_head@", "lm_head@"),
    ("language_model.model.embed_tokens@", "model.language_model.embed_tokens@"),
    ("language_model.model.norm@", "model.language_model.norm@"),
    *(
        (f"language_model.model.layers.#.{name}@", f"{_LAYER}{name}@")
        for name in (
            *(f"self_attn.{part}_proj" for part in "qkvo"),
            *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
            "input_layernorm",
            "post_attention_layernorm",
        )
    ),
)
ORIGINAL_PREFIXES = ("vision_model.", "mlp1.", "language_model.")
OUR_PREFIXES = ("model.", "lm_head.")

_ROTARY = re.compile(r"language_model\..*rotary_emb\.inv_freq")  # older files keep this table
_QKV = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.attn\.qkv\.(weight|bias)")
_VISION_PART = "model.vision_tower.encoder.layer.{}.attention.{}_proj.{}"
_WQKV = re.compile(r"language_model\.model\.layers\.(\d+)\.attention\.wqkv\.(weight|bias)")
_TEXT_PART = "model.language_model.layers.{}.self_attn.{}_proj.{}"


class OriginalNames:
    """The table of one model; what is fused depends on its numbers of heads."""

    def __init__(self, config: InternVLConfig) -> None:
        text = config.text_config
        self.fused = isinstance(text, LlamaConfig)  # the Llama among InternVL2.5 is InternLM2
        self.kv_heads = text.num_key_value_heads
        self.group = text.num_attention_heads // text.num_key_value_heads
        pairs = (*_VISION, *_PROJECTOR, *(_INTERNLM2 if self.fused else _QWEN2))
        self._from = _Table(name_rule(theirs, ours) for theirs, ours in pairs)
        self._to = [name_rule(ours, theirs) for theirs, ours in pairs]

    def from_original(self, name: str, tensor: Tensor) -> State:
        """One tensor of an original checkpoint as those of transformers' model (1, 3 or none).

        A name that the table lacks is returned as it is: the caller finds it unexpected.

        Raises:
            ValueError: a fused matrix that cannot be split.
        """
        if _ROTARY.fullmatch(name):
            return {}
        if match := _QKV.fullmatch(name):
            parts = tensor.chunk(3)
            return _named(_VISION_PART, match, parts)
        if self.fused and (match := _WQKV.fullmatch(name)):
            return _named(_TEXT_PART, match, self.split_wqkv(tensor))
        return {self._from(name): tensor}

    def split_wqkv(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """InternLM2's ``[kv * (group + 2) * d, ...]`` to query, key and value, head by head."""
        if len(fused) % (parts := self.kv_heads * (self.group + 2)):
            raise ValueError(f"{len(fused)} rows in the file are not {parts} heads")
        heads = fused.unflatten(0, (self.kv_heads, self.group + 2, -1))
        query, key, value = heads.split([self.group, 1, 1], dim=1)
        return query.flatten(0, 2), key.flatten(0, 2), value.flatten(0, 2)

    def join_wqkv(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The inverse of :meth:`split_wqkv`."""
        rows = (
            query.unflatten(0, (self.kv_heads, self.group, -1)),
            key.unflatten(0, (self.kv_heads, 1, -1)),
            value.unflatten(0, (self.kv_heads, 1, -1)),
        )
        return torch.cat(rows, dim=1).flatten(0, 2)

    def to_original(self, state: State) -> State:
        """A whole state of transformers' model under the original names.

        Raises:
            ValueError: a key that the table lacks.
        """
        state = dict(state)
        joined: State = {}
        for key in list(state):
            if match := _split_name(_VISION_PART, key):
                parts = _take(state, _VISION_PART, match)
                joined["vision_model.encoder.layers.{}.attn.qkv.{}".format(*match)] = torch.cat(
                    parts
                )
            elif self.fused and (match := _split_name(_TEXT_PART, key)):
                parts = _take(state, _TEXT_PART, match)
                joined["language_model.model.layers.{}.attention.wqkv.{}".format(*match)] = (
                    self.join_wqkv(*parts)
                )
        return rename(state, self._to, where="the language model") | joined


class _Table:
    """Renames one name at a time."""

    def __init__(self, rules: Iterable[Rename]) -> None:
        self.rules = [(re.compile(rule.pattern), rule.target) for rule in rules]

    def __call__(self, name: str) -> str:
        for pattern, target in self.rules:
            if match := pattern.fullmatch(name):
                return match.expand(target)
        return name


def _named(pattern: str, match: re.Match[str], parts: Iterable[Tensor]) -> State:
    layer, kind = match.groups()
    return {pattern.format(layer, q, kind): part for q, part in zip("qkv", parts, strict=True)}


def _split_name(pattern: str, key: str) -> tuple[str, str] | None:
    """(layer, kind) of the query's name; key and value are taken with it."""
    escaped = re.escape(pattern.format("LAYER", "q", "KIND"))
    match = re.fullmatch(escaped.replace("LAYER", r"(\d+)").replace("KIND", "(weight|bias)"), key)
    return (match[1], match[2]) if match else None


def _take(state: State, pattern: str, match: tuple[str, str]) -> list[Tensor]:
    layer, kind = match
    return [state.pop(pattern.format(layer, part, kind)) for part in "qkv"]
