"""The language model behind one small interface: InternVL on transformers' own classes.

    pixel_values ──► vision tower ──► pixel shuffle, projector ──┐ visual tokens, or those that
                                                                 │ a head made of features
    input_ids ─────► token embeddings ◄── <IMG_CONTEXT> ─────────┘ (fusion)
                          │ language model
                          ▼
                   hidden [B, L, D] ──► supervised positions only ──► lm_head ──► language loss

Shapes: B samples, L tokens, D hidden size, N tiles, V visual tokens a tile. The hidden state that
stands for a token is the last layer's (after the final norm) at the position of that token in the
INPUT, without a shift, in training and in inference alike: at a [SEG] it has seen the [SEG].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerBase

from projects.common.conversation import IMAGE_CONTEXT, SEG, check_template, token_id
from projects.common.freezing import grad_if_trainable
from projects.llava_sam2.models.generation import Generated, generate
from projects.llava_sam2.models.normalise import mean_count
from projects.llava_sam2.structures import IGNORE_INDEX

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InternVL(nn.Module):
    """InternVL (Chen et al., 2024) with a tokenizer that knows the grounding tokens.

    The embeddings grow to the tokenizer's size where they are smaller; new rows start as the mean
    of the old ones.

    Args:
        model: a built ``InternVLForConditionalGeneration``, from a config or from a folder.
        tokenizer: from :func:`projects.common.conversation.load_tokenizer`.
        template: the chat template that it is trained and asked with.
        gradient_checkpointing: recompute activations in backward (without re-entrance).

    Attributes:
        use_visual: False feeds zeros in place of visual features, to measure what they add.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        model: InternVLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.stop_words = check_template(tokenizer, template).stop_words
        self.template = template
        self.tokenizer = tokenizer
        self.image_id = token_id(tokenizer, IMAGE_CONTEXT)
        self.seg_id = token_id(tokenizer, SEG)
        self.use_visual = True
        grow_vocabulary(model, len(tokenizer))
        self.model = model
        if gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        for name, values in (("mean", IMAGE_MEAN), ("std", IMAGE_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @property
    def language_model(self) -> nn.Module:
        """The decoder layers, without vision tower, projector and lm_head."""
        return self.model.model.language_model

    @property
    def hidden_size(self) -> int:
        return self.model.config.text_config.hidden_size

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels."""
        return self.model.config.vision_config.image_size[0]

    @property
    def image_tokens_per_tile(self) -> int:
        vision = self.model.config.vision_config
        side = vision.image_size[0] // vision.patch_size[0]
        return int(side * self.model.config.downsample_ratio) ** 2

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def visual_features(self, pixel_values: Tensor) -> Tensor:
        """uint8 (or float 0..255) RGB tiles ``[N, 3, H, H]`` to ``[N, V, D]``."""
        if pixel_values.shape[1:] != (3, self.tile_size, self.tile_size):
            raise ValueError(
                f"tiles of shape {tuple(pixel_values.shape)}, but the vision tower takes "
                f"[N, 3, {self.tile_size}, {self.tile_size}]"
            )
        pixels = (pixel_values.float() / 255 - self.mean.float()) / self.std.float()
        pixels = pixels.to(self.model.dtype)
        with grad_if_trainable(self.model.model.vision_tower):
            outputs = self.model.model.vision_tower(pixel_values=pixels)
        return self._project(outputs.last_hidden_state)

    def _project(self, patches: Tensor) -> Tensor:
        """Patches ``[N, 1 + P, C]`` (class token first) to visual tokens ``[N, V, D]``."""
        inner = self.model.model
        side = int((patches.shape[1] - 1) ** 0.5)
        grid = patches[:, 1:].unflatten(1, (side, side))
        tokens = inner.pixel_shuffle(grid, scale_factor=self.model.config.downsample_ratio)
        return inner.multi_modal_projector(tokens.flatten(1, 2))

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        *,
        visual: Tensor | None = None,
    ) -> Tensor:
        """Token embeddings ``[B, L, D]`` with the visual features at ``<IMG_CONTEXT>``, in order.

        Args:
            input_ids: ``[B, L]``.
            pixel_values: ``[N, 3, H, H]`` tiles of all samples, in their order.
            visual: ``[N, V, D]`` from :meth:`visual_features` or from a head, in place of
                ``pixel_values``.

        Raises:
            ValueError: with both counts, if tokens and features do not line up.
        """
        embeddings = self.model.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            visual = self.visual_features(pixel_values)
        places = input_ids == self.image_id
        expected = int(places.sum())
        given = 0 if visual is None else visual.shape[0] * visual.shape[1]
        if expected != given:
            each = "" if visual is None else f" ({visual.shape[1]} each of {visual.shape[0]})"
            raise ValueError(
                f"{expected} {IMAGE_CONTEXT} tokens but {given} visual features{each}; they must "
                "be equal in number"
            )
        if visual is None:
            return embeddings
        if not self.use_visual:
            visual = visual * 0
        return embeddings.masked_scatter(places.unsqueeze(-1), visual.to(embeddings.dtype))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        *,
        visual: Tensor | None = None,
    ) -> Tensor:
        """Hidden states ``[B, L, D]`` of the last layer; no logits are made.

        Args:
            input_ids: ``[B, L]``, padded on the right.
            attention_mask: ``[B, L]``, False on padding.
            pixel_values: ``[N, 3, H, H]``.
            visual: ``[N, V, D]`` in their place, see :meth:`embed`.
        """
        return self.language_model(
            inputs_embeds=self.embed(input_ids, pixel_values, visual=visual),
            attention_mask=attention_mask,
            use_cache=False,
        ).last_hidden_state

    def language_loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy over all supervised tokens of the global batch, a scalar.

        Logits exist only where a token is supervised. A sample weighs as much as it has supervised
        tokens; with several ranks, see :func:`projects.llava_sam2.models.normalise.mean_count`.
        Without any, the loss is zero and still reaches every parameter.

        Args:
            hidden: ``[B, L, D]``.
            labels: ``[B, L]``; the hidden state at l predicts the label at l + 1.
        """
        supervised = labels[:, 1:] != IGNORE_INDEX
        targets = labels[:, 1:][supervised]
        count = mean_count(len(targets), hidden.device)
        if not len(targets):
            return self.model.lm_head(hidden[:1, :1]).sum() * 0
        logits = self.model.lm_head(hidden[:, :-1][supervised]).float()
        return F.cross_entropy(logits, targets, reduction="sum") / count

    def generate(
        self,
        prompts: Sequence[Tensor],
        pixel_values: Tensor | None = None,
        *,
        visual: Tensor | None = None,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Generated]:
        """Answer a batch of prompts; see :func:`projects.llava_sam2.models.generation.generate`."""
        return generate(
            self,
            prompts,
            pixel_values,
            visual=visual,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            generator=generator,
        )


def grow_vocabulary(model: InternVLForConditionalGeneration, size: int) -> None:
    """Give the embeddings and lm_head at least ``size`` rows; new ones are the mean of the old."""
    old = model.get_input_embeddings().num_embeddings
    if size <= old:
        return
    model.resize_token_embeddings(size, mean_resizing=False)
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    with torch.no_grad():
        for table in tables:
            table[old:] = table[:old].mean(0, keepdim=True)
