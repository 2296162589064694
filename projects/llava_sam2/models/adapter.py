"""What the heads, generation and the predictor know of a language model that sees.

    pixel_values ──► visual_features ──┐ visual tokens, or those that a head made of features
    input_ids ─► token embeddings ◄────┘ where the template's context token stands (fusion)
                      │ language_model, told the positions (and more, if it wants) by `arrange`
                      ▼
               hidden [B, L, D] ──► supervised positions only ──► lm_head ──► language loss

InternVL is the first that fits behind it (mllm.py), Qwen2.5-VL and Qwen3-VL the others. Shapes: B
samples, L tokens, D hidden size, N tiles, V visual tokens a tile, W >= D the width of a visual
token. The hidden state that stands for a token is the last layer's (after the final norm) at the
position of that token in the INPUT, without a shift, in training and in inference alike: at a [SEG]
it has seen the [SEG].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from projects.common import sequence
from projects.common.conversation import (
    REGION_END,
    REGION_START,
    SEG,
    check_template,
    token_id,
)
from projects.llava_sam2.models.generation import generate
from projects.llava_sam2.models.language_loss import LanguageLoss
from projects.llava_sam2.models.recompute import recompute_layers
from projects.llava_sam2.models.sequence import prepare, run_in_parts
from projects.llava_sam2.models.visual_tokens import Grid, VisualTokens, place_visual
from projects.llava_sam2.models.weights import grow_vocabulary, rotary_tables
from projects.llava_sam2.structures import IGNORE_INDEX


class LanguageAdapter(nn.Module, ABC):
    """One of transformers' vision-language models, with a tokenizer that knows grounding tokens.

    The embeddings grow to the tokenizer's size where they are smaller; new rows start as the mean
    of the old ones. A subclass says how pixels become visual tokens and where they stand.

    Args:
        model: built, from a config or from a folder; with ``lm_head`` and ``model.language_model``.
        tokenizer: from :func:`projects.common.conversation.load_tokenizer`.
        template: the chat template that it is trained and asked with; its context token is where
            the visual tokens go.
        gradient_checkpointing: recompute activations in backward (without re-entrance).
        loss: how the language loss is computed; None: with its defaults.

    Attributes:
        use_visual: False feeds zeros in place of visual features, to measure what they add.
    """

    mean: Tensor
    std: Tensor

    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        gradient_checkpointing: bool = False,
        loss: LanguageLoss | None = None,
    ) -> None:
        super().__init__()
        chat = check_template(tokenizer, template)
        self.stop_words = chat.stop_words
        self.context = chat.image_context
        self.template = template
        self.tokenizer = tokenizer
        self.image_id = token_id(tokenizer, chat.image_context)
        self.seg_id = token_id(tokenizer, SEG)
        vocabulary = tokenizer.get_vocab()  # only conversations about regions need these two
        self.region_ids = [vocabulary.get(token, -1) for token in (REGION_START, REGION_END)]
        self.use_visual = True
        self.cross_entropy = loss or LanguageLoss()
        grow_vocabulary(model, len(tokenizer))
        self.model = model
        prepare(self.language_model)
        if gradient_checkpointing:
            recompute_layers(model)
        for name, values in (("mean", self.image_mean), ("std", self.image_std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LanguageAdapter:
        """Moves and casts (``.to``, ``.bfloat16``, engines) reach all but the rotary tables, which
        only move: rounded to bfloat16, they are a turn off after a few thousand positions."""
        before = rotary_tables(self.model)
        super()._apply(fn, recurse)
        for module, name, table in before:
            if not table.is_meta:
                module._buffers[name] = table.to(module._buffers[name].device)
        return self

    # ---- what differs between language models -----------------------------------------------

    @property
    @abstractmethod
    def tile_size(self) -> int:
        """Side of a tile in pixels."""

    @property
    @abstractmethod
    def image_tokens_per_tile(self) -> int:
        """V, visual tokens of one tile."""

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Normalised tiles ``[N, 3, H, H]`` to visual tokens ``[N, V, W]``.

        A frozen vision tower runs outside autograd.
        """

    def arrange(
        self, input_ids: Tensor, attention_mask: Tensor, visual: VisualTokens | None
    ) -> dict[str, Any]:
        """Further arguments of ``language_model``, ``position_ids`` among them.

        Args:
            input_ids: ``[B, L]``, padded on either side.
            attention_mask: ``[B, L]``, False on padding.
            visual: what stands where.
        """
        return {"position_ids": (attention_mask.long().cumsum(1) - 1).clamp(min=0)}

    # ---- what all share ---------------------------------------------------------------------

    @property
    def language_model(self) -> nn.Module:
        """The decoder layers, without vision tower, projector and lm_head."""
        return self.model.model.language_model

    @property
    def hidden_size(self) -> int:
        return self.model.config.text_config.hidden_size

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def visual_features(self, pixel_values: Tensor | Sequence[Tensor]) -> Tensor:
        """uint8 (or float 0..255) RGB tiles ``[N, 3, H, H]`` to ``[N, V, W]``."""
        groups = [pixel_values] if isinstance(pixel_values, Tensor) else pixel_values
        if any(group.shape[1:] != (3, self.tile_size, self.tile_size) for group in groups):
            raise ValueError(
                f"tiles of shape {', '.join(str(tuple(group.shape)) for group in groups)}, but the "
                f"vision tower takes [N, 3, {self.tile_size}, {self.tile_size}]"
            )
        pixel_values = torch.cat(list(groups))
        return self.encode_pixels(self.normalise(pixel_values))

    def normalise(self, pixel_values: Tensor) -> Tensor:
        """Pixels 0..255 as the vision tower wants them."""
        pixels = (pixel_values.float() / 255 - self.mean.float()) / self.std.float()
        return pixels.to(self.model.dtype)

    def grids(self, pixel_values: Tensor | Sequence[Tensor]) -> list[Grid] | None:
        """Rows and columns of the visual tokens of each tile; None: all are equal squares."""
        return None

    def words(self, input_ids: Tensor) -> Tensor:
        """Embeddings ``[..., D]``, as precise as the decoder layers: a table that trains is
        float32 (see :class:`projects.llava_sam2.models.sa2va.Sa2VA`) beside frozen bfloat16."""
        embeddings = self.model.get_input_embeddings()(input_ids)
        return embeddings.to(self.language_model.norm.weight.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states ``[..., D]`` to the vocabulary."""
        head = self.model.lm_head
        return head(hidden.to(head.weight.dtype))

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | Sequence[Tensor] | None = None,
        *,
        visual: Tensor | None = None,
        grids: Sequence[Grid] | None = None,
        regions: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """Token embeddings ``[B, L, D]`` with the visual tokens at the context tokens, in order.

        Arguments and errors as in :meth:`inputs`.
        """
        return self._fuse(input_ids, self._see(input_ids, pixel_values, visual, grids, regions))

    def inputs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | Sequence[Tensor] | None = None,
        *,
        visual: Tensor | None = None,
        grids: Sequence[Grid] | None = None,
        regions: Sequence[Tensor | None] | None = None,
    ) -> dict[str, Any]:
        """All that ``language_model`` is called with.

        Args:
            input_ids: ``[B, L]``, padded on either side.
            attention_mask: ``[B, L]``, False on padding.
            pixel_values: ``[N, 3, H, H]`` tiles of all samples, in their order; or several such
                where sizes differ.
            visual: ``[N, V, W]`` from :meth:`visual_features`, or ``[N, V, D]`` from a head, in
                place of ``pixel_values``.
            grids: rows and columns of the tiles of ``visual``; None: they are squares.
            regions: per sample ``[R, rows, columns]`` bool or None: regions on the grid of the
                sample's last tile, whose visual tokens stand once more between ``<vp>`` and
                ``</vp>``.

        Raises:
            ValueError: with both counts, if tokens and features do not line up.
        """
        seen = self._see(input_ids, pixel_values, visual, grids, regions)
        return {
            "inputs_embeds": self._fuse(input_ids, seen),
            "attention_mask": attention_mask,
            **self.arrange(input_ids, attention_mask, seen),
        }

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | Sequence[Tensor] | None = None,
        *,
        visual: Tensor | None = None,
        grids: Sequence[Grid] | None = None,
        regions: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """Hidden states ``[B, L, D]`` of the last layer; no logits are made.

        Arguments and errors as in :meth:`inputs`.
        """
        inputs = self.inputs(
            input_ids, attention_mask, pixel_values, visual=visual, grids=grids, regions=regions
        )
        if self.training and sequence.size() > 1:
            return run_in_parts(self.language_model, inputs)
        return self.language_model(**inputs, use_cache=False).last_hidden_state

    def language_loss(
        self, hidden: Tensor, labels: Tensor, *, mean_count: float | None = None
    ) -> Tensor:
        """Mean cross entropy over all supervised tokens of the global batch, a scalar.

        Logits exist only where a token is supervised, and there a chunk at a time. A sample weighs
        as much as it has supervised tokens. Without any, the loss is zero and still reaches every
        parameter.

        Args:
            hidden: ``[B, L, D]``.
            labels: ``[B, L]``; the hidden state at l predicts the label at l + 1.
            mean_count: what to divide by, where gradients are accumulated; see
                :func:`projects.llava_sam2.models.normalise.mean_count`.
        """
        supervised = labels[:, 1:] != IGNORE_INDEX
        return self.cross_entropy(
            self.model.lm_head,
            hidden[:, :-1][supervised].to(self.model.lm_head.weight.dtype),
            labels[:, 1:][supervised],
            mean_count=mean_count,
        )

    generate = generate  # answers a batch of prompts; a file of its own (generation.py)

    def _see(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | Sequence[Tensor] | None,
        visual: Tensor | None,
        grids: Sequence[Grid] | None,
        regions: Sequence[Tensor | None] | None,
    ) -> VisualTokens | None:
        """Visual tokens and their places, which must be equal in number; None without any."""
        if pixel_values is not None:
            visual, grids = self.visual_features(pixel_values), self.grids(pixel_values)
        if not self.use_visual and visual is not None:
            visual = visual * 0
        return place_visual(
            input_ids,
            visual,
            grids,
            regions,
            image_id=self.image_id,
            region_ids=self.region_ids,
            context=self.context,
        )

    def _fuse(self, input_ids: Tensor, visual: VisualTokens | None) -> Tensor:
        if visual is None:
            unseen = self._touch_vision()
            embeddings = self.words(input_ids)
            return embeddings if unseen is None else embeddings + unseen.to(embeddings)
        embeddings = self.words(input_ids)
        tokens = visual.tokens[:, : self.hidden_size].to(embeddings)
        return embeddings.masked_scatter(visual.places.unsqueeze(-1), tokens)

    def _touch_vision(self) -> Tensor | None:
        """Zero, with a path to the vision tower, for text alone beside ranks that have pictures.

        ZeRO-3 wants the modules in one order on all ranks: the tower first, then the words.
        """
        alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
        if alone or not self.training:
            return None
        black = torch.zeros(1, 3, self.tile_size, self.tile_size, device=self.device)
        return self.visual_features(black).sum() * 0
