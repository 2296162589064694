"""SAM 2 as verbs on transformers' Sam2Video blocks (SAM 2, arXiv 2408.00714).

This is the one file that knows transformers' names. Only its modules are used, none of its video
methods: those serve one object without gradient. Semantics are those of Meta's SAM 2.1.

    frames ── encode_frames ──► FrameFeatures ── attend_memory ──► embed ─┐
                                    │                ▲                    ▼
                                    │         memories, pointers     decode_masks ◄── Prompt
                                    │                │                    │
                                    └──────── encode_memory ◄── masks ────┤
                                                     object_pointer ◄─────┘ tokens

Shapes: see ``typed.py``. Work under ``torch.autocast`` for lower precision; a model that is cast
as a whole keeps its position tables in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.checkpoint import checkpoint
from transformers import Sam2VideoConfig, Sam2VideoModel

from projects.common.freezing import grad_if_trainable
from projects.common.partition import copied

from .compiling import Compiled, compiler_works
from .decoding import FIRST_MASK, decode_masks, decode_tokens, object_score
from .droppath import add_drop_path
from .hiera import run_hiera
from .memory_attention import attend, rope_table
from .positions import NoPosition, sine_grid, sine_offsets
from .pyramid import feature_pyramid, project_level
from .typed import PADDING, FrameFeatures, MaskCandidates, MixedPrompt, Prompt, merge_rows

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
MASK_SCALE, MASK_BIAS = 20.0, -10.0  # a mask that is given becomes logits of +10 and -10
CHECKPOINTED = ("encoder", "memory", "decoder")
MASK_DOWNSAMPLE = 4  # stride of the convolution that turns a mask prompt into decoder logits


class Sam2(nn.Module):
    """SAM 2's modules behind five verbs; rows are batched, everything is differentiable.

    Args:
        blocks: transformers' model; its modules and parameters are used, its methods are not.
        drop_path: stochastic depth of the image encoder while training (0.1 in the MOSE recipe).
        checkpointing: what is recomputed in backward, see :meth:`set_checkpointing`.
    """

    def __init__(
        self,
        *,
        blocks: Sam2VideoModel,
        drop_path: float = 0.0,
        checkpointing: bool | Sequence[str] = False,
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.propagation_decoder: nn.Module | None = None
        config = blocks.config
        self.image_size: int = config.image_size
        self.num_maskmem: int = config.num_maskmem
        self.max_object_pointers: int = config.max_object_pointers_in_encoder
        self.hidden: int = config.vision_config.fpn_hidden_size
        self.memory_width: int = config.memory_encoder_output_channels
        self.grid: int = config.vision_config.backbone_feature_sizes[-1][0]
        self.mask_size: int = 4 * self.grid
        self._prepare_blocks(drop_path)
        for name, table in (
            ("frame_position", sine_grid(self.hidden, self.grid, self.grid)),
            ("memory_position", sine_grid(self.memory_width, self.grid, self.grid)),
            ("rope", rope_table(blocks.memory_attention)),
            ("mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1)),
            ("std", torch.tensor(IMAGE_STD).view(3, 1, 1)),
        ):
            self.register_buffer(name, table, persistent=False)
        self._dense: tuple[tuple, Tensor] | None = None
        self.set_checkpointing(checkpointing)
        self._run_hiera: Callable = run_hiera
        self._attend: Callable = attend

    def _prepare_blocks(self, drop_path: float) -> None:
        blocks = self.blocks
        # Meta's model has this parameter too and never reads it: no gradient can reach it
        blocks.no_memory_positional_encoding.requires_grad_(False)
        # the codes of all levels would be built for every image; two are read, and kept as tables
        blocks.vision_encoder.neck.position_encoding = NoPosition()
        blocks.memory_encoder.position_encoding = NoPosition()
        # transformers draws the two copies of the point code apart
        blocks.shared_image_embedding.positional_embedding.copy_(
            blocks.prompt_encoder.shared_embedding.positional_embedding
        )
        add_drop_path(blocks.vision_encoder.backbone.blocks, drop_path)

    def set_checkpointing(self, parts: bool | Sequence[str]) -> None:
        """Choose what keeps no activations in training and is recomputed in backward.

        Args:
            parts: some of ``encoder`` (block by block), ``memory`` (memory attention and memory
                encoder) and ``decoder`` (prompt encoder and mask decoder); True for all, False for
                none.

        Raises:
            ValueError: another name.
        """
        chosen = frozenset(CHECKPOINTED if parts is True else parts or ())
        if not chosen <= set(CHECKPOINTED):
            raise ValueError(
                f"cannot recompute {sorted(chosen - set(CHECKPOINTED))}; choose among "
                f"{', '.join(CHECKPOINTED)}"
            )
        self.checkpointing = chosen

    def compile_parts(self) -> None:
        """Run the image encoder and the memory attention through ``torch.compile``.

        Where it does not work, one warning says why and the model runs as it is. The first calls
        compile, which takes minutes at the larger sizes.
        """
        if not compiler_works("cuda" if torch.cuda.is_available() else "cpu"):
            return
        self._run_hiera = Compiled(run_hiera, name="image encoder")
        self._attend = Compiled(attend, name="memory attention")

    def _run(self, part: str, function: Callable, *tensors: Tensor | None, always: bool = False):
        """``function(*tensors)``, recomputed in backward where the part is to be."""
        recompute = always or (part in self.checkpointing and self.training)
        if not (recompute and torch.is_grad_enabled()):
            return function(*tensors)
        return checkpoint(function, *tensors, use_reentrant=False)

    # ---- properties -------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; stays float32 unless the whole model is cast."""
        return self.blocks.no_memory_embedding.dtype

    def _apply(self, fn: Callable, recurse: bool = True) -> Sam2:
        """Move or cast as usual, but keep float32 tables (RoPE, point codes) in float32.

        Rounded to bfloat16, RoPE's angles are wrong by up to 0.07 at 64 x 64.
        """
        tables = {name: table for name, table in self.named_buffers() if table is not None}
        super()._apply(fn, recurse)
        for name, table in tables.items():
            owner_name, _, leaf = name.rpartition(".")
            owner = self.get_submodule(owner_name)
            moved = getattr(owner, leaf)
            if moved.is_floating_point() and moved.element_size() < table.element_size():
                setattr(owner, leaf, table.to(moved.device))
        return self

    # ---- verbs ------------------------------------------------------------------------------

    def encode_frames(self, frames: Tensor, *, split: int | None = None) -> FrameFeatures:
        """Image encoder, with the decoder's projections of the high-resolution levels.

        Args:
            frames: [N, 3, S, S] RGB, uint8 or float in 0..255.
            split: encode this many images at a time, to bound memory.

        Raises:
            ValueError: frames of another shape.
        """
        size = self.image_size
        if frames.ndim != 4 or frames.shape[1:] != (3, size, size) or len(frames) == 0:
            raise ValueError(f"frames must be [N, 3, {size}, {size}], got {tuple(frames.shape)}")
        with grad_if_trainable(self.blocks.vision_encoder):
            parts = [self._encode_images(chunk) for chunk in frames.split(split or len(frames))]
            embed, stride4, stride8 = (torch.cat(level) for level in zip(*parts, strict=True))
        kept = self.propagation_decoder
        return FrameFeatures(
            embed=embed,
            high_res=self._project(self.blocks.mask_decoder, stride4, stride8),
            propagation_high_res=None if kept is None else self._project(kept, stride4, stride8),
        )

    def _encode_images(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The top level, and what the decoder's projections of the other two start from."""
        pixels = (frames.to(self.device).float() / 255 - self.mean) / self.std
        encoder = self.blocks.vision_encoder
        recompute = "encoder" in self.checkpointing
        stages = self._run_hiera(encoder.backbone, pixels.to(self.dtype), recompute=recompute)
        return feature_pyramid(encoder.neck, stages)

    def _project(self, decoder: nn.Module, stride4: Tensor, stride8: Tensor):
        neck = self.blocks.vision_encoder.neck
        return (
            project_level(neck, 0, stride4, decoder.conv_s0),
            project_level(neck, 1, stride8, decoder.conv_s1),
        )

    def decode_masks(
        self,
        features: FrameFeatures,
        prompt: Prompt | MixedPrompt | None,
        *,
        multimask: bool | None = None,
        decoder: nn.Module | None = None,
        hide_absent: bool = False,
        stability_fallback: bool = False,
        recompute: bool = False,
    ) -> MaskCandidates:
        """Prompt encoder and mask decoder; a mask prompt is its own answer.

        Rows are decoded in groups of the same kind and number of points and put back in order;
        where groups have different numbers of candidates, the single ones are repeated.

        Args:
            features: of B rows; the embed has read the memory, or holds the no-memory embedding
                (rows with a mask prompt: the raw embed).
            prompt: for B rows; None asks with one empty point, as tracking does.
            multimask: three candidates instead of one; None follows the model's own rule
                (``uses_multimask``).
            decoder: None, or ``propagation_decoder``.
            hide_absent: blank the masks of objects whose score says absent (not those of mask
                prompts).
            stability_fallback: in eval mode, an unstable single mask gives way to the best of
                three.
            recompute: keep no activations, make them anew in backward.

        Raises:
            ValueError: prompt and features have different numbers of rows; unknown decoder.
        """
        rows = len(features)
        if prompt is not None and len(prompt) != rows:
            raise ValueError(f"a prompt of {len(prompt)} rows for features of {rows} rows")
        parts = []
        for count, index, part in self._groups(prompt, rows):
            whole = len(index) == rows
            group = features if whole else features.rows(index.to(self.device))
            if part is not None and part.mask is not None:
                candidates = self._mask_as_output(group, part.mask, decoder)
            else:
                many = self.uses_multimask(count) if multimask is None else multimask
                candidates = self._decode(group, part, many, decoder, stability_fallback, recompute)
                if hide_absent:
                    candidates = candidates.hide_absent()
            parts.append((index, candidates))
        return merge_rows(parts, rows)

    def uses_multimask(self, points: int) -> bool:
        """SAM 2's rule: three candidates for no point or few, one where the prompt is clear."""
        config = self.blocks.config
        fits = config.multimask_min_pt_num <= points <= config.multimask_max_pt_num
        return config.multimask_output_in_sam and fits

    def _groups(self, prompt: Prompt | MixedPrompt | None, rows: int):
        """(points, rows, prompt) of rows that can be decoded together."""
        if prompt is None:
            return [(0, torch.arange(rows), None)]
        if isinstance(prompt, Prompt):
            return prompt.by_point_count()
        groups = [
            (count, part_rows.cpu()[index.cpu()], part)
            for part_rows, kind in prompt.parts
            for count, index, part in kind.by_point_count()
        ]
        left = torch.ones(rows, dtype=torch.bool)
        for _, index, _ in groups:
            left[index] = False
        if left.any():
            groups.append((0, left.nonzero()[:, 0], None))
        return groups

    def _decode(
        self,
        features: FrameFeatures,
        prompt: Prompt | None,
        multimask: bool,
        decoder: nn.Module | None,
        stability_fallback: bool,
        recompute: bool,
    ) -> MaskCandidates:
        module, high_res = self._decoder_with_features(features, decoder)
        fallback = stability_fallback and not module.training

        def run(embed: Tensor, stride4: Tensor, stride8: Tensor, *given: Tensor | None):
            tokens, image = self._attend_prompt(module, embed, *given)
            answers = decode_masks(
                module,
                tokens,
                image,
                (stride4, stride8),
                multimask=multimask,
                stability_fallback=fallback,
            )
            return *answers, object_score(module, tokens)

        given: tuple[Tensor | None, ...] = (None, None, None, None)
        if prompt is not None:
            given = (prompt.points, prompt.labels, prompt.tokens, prompt.previous)
        masks, iou, tokens, object_logits = self._run(
            "decoder", run, features.embed, *high_res, *given, always=recompute
        )
        return MaskCandidates(masks, iou, tokens, object_logits, object_logits)

    def _attend_prompt(
        self,
        decoder: nn.Module,
        embed: Tensor,
        points: Tensor | None,
        labels: Tensor | None,
        tokens: Tensor | None,
        previous: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens and image that have attended to each other, see ``decoding.decode_tokens``."""
        sparse, dense = self._encode_prompt(len(embed), points, labels, tokens, previous)
        position = self._dense_position().to(embed.dtype)
        return decode_tokens(decoder, embed, position, sparse, dense.to(embed.dtype))

    def _empty_point(self, rows: int) -> dict[str, Tensor]:
        """The prompt of rows that ask for nothing but what the memory says."""
        labels = torch.full((rows, 1), PADDING, device=self.device)
        return dict(points=torch.zeros(rows, 1, 2, device=self.device), labels=labels)

    def _decoder_with_features(self, features: FrameFeatures, decoder: nn.Module | None):
        if decoder is None or decoder is self.blocks.mask_decoder:
            return self.blocks.mask_decoder, features.high_res
        if decoder is not self.propagation_decoder:
            raise ValueError("decoder must be None or the model's own propagation_decoder")
        if features.propagation_high_res is None:
            raise ValueError(
                "these features were encoded before keep_propagation_decoder(): encode them again"
            )
        return decoder, features.propagation_high_res

    def _encode_prompt(
        self,
        rows: int,
        points: Tensor | None,
        labels: Tensor | None,
        tokens: Tensor | None,
        previous: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Sparse [B, 1, tokens, C] and dense [1 or B, C, h, w] or [1, C, 1, 1] embeddings."""
        device, encoder = self.device, self.blocks.prompt_encoder
        if points is None and previous is None:  # what tracking asks on every frame
            # the code of an empty point, and of the padding point behind it
            sparse = encoder.not_a_point_embed.weight.expand(rows, 1, 2, -1)
            return _with_tokens(sparse, tokens), encoder.no_mask_embed.weight[:, :, None, None]
        if points is None:
            points, labels = self._empty_point(rows).values()
        if previous is not None:
            previous = self._resize(previous.to(device), self.mask_size).to(self.dtype)
        sparse, dense = encoder(
            input_points=points.to(device).float()[:, None],
            input_labels=labels.to(device).long()[:, None],
            input_boxes=None,
            input_masks=previous,
        )
        return _with_tokens(sparse, tokens), dense

    def _mask_as_output(
        self, features: FrameFeatures, mask: Tensor, decoder: nn.Module | None
    ) -> MaskCandidates:
        """The mask itself as logits; the decoder only makes the token of the object pointer."""
        size = self.image_size
        if mask.shape[1:] != (1, size, size):
            raise ValueError(f"mask prompts must be [B, 1, {size}, {size}], got {list(mask.shape)}")
        mask = mask.to(self.device).float()
        at_conv = self._resize(mask, MASK_DOWNSAMPLE * self.mask_size)
        module, _ = self._decoder_with_features(features, decoder)

        def run(embed: Tensor, at_conv: Tensor) -> tuple[Tensor, Tensor]:
            previous = self.blocks.mask_downsample(at_conv.to(self.dtype))
            tokens, _ = self._attend_prompt(module, embed, None, None, None, previous)
            return tokens[:, FIRST_MASK : FIRST_MASK + 1], object_score(module, tokens)

        tokens, decoded_logits = self._run("decoder", run, features.embed, at_conv)
        present = (mask.flatten(1) > 0).any(1, keepdim=True).float()
        object_logits = MASK_SCALE * present + MASK_BIAS
        return MaskCandidates(
            masks=self._resize(MASK_SCALE * mask + MASK_BIAS, self.mask_size),
            iou=torch.ones_like(object_logits),
            tokens=tokens,
            object_logits=object_logits,
            pointer_logits=torch.minimum(object_logits, decoded_logits),
        )

    @staticmethod
    def _resize(masks: Tensor, size: int) -> Tensor:
        if masks.shape[-1] == size:
            return masks
        return interpolate(
            masks.float(), (size, size), mode="bilinear", align_corners=False, antialias=True
        )

    def full_size(self, masks: Tensor) -> Tensor:
        """Mask logits [B, M, 4h, 4w] at the input's resolution [B, M, S, S]."""
        size = (self.image_size, self.image_size)
        return interpolate(masks.float(), size, mode="bilinear", align_corners=False)

    def encode_memory(
        self,
        features: FrameFeatures,
        masks: Tensor,
        object_logits: Tensor,
        *,
        binarise: Tensor | bool = False,
    ) -> Tensor:
        """Memory of one frame: raw features fused with the masks.

        Args:
            features: of B rows, with the raw embed.
            masks: [B, 1, S, S] logits.
            object_logits: [B, 1]; rows at or below 0 get the embedding of an absent object.
            binarise: rows [B] (or all) whose mask enters as 0 or 1 instead of its sigmoid.

        Returns:
            [B, 64, h, w]. Its position code is the same for all frames and is added on reading.
        """
        config, encoder = self.blocks.config, self.blocks.memory_encoder
        shown = torch.sigmoid(masks.float())
        if binarise is not False:
            hard = torch.as_tensor(binarise, device=masks.device).view(-1, 1, 1, 1)
            shown = torch.where(hard, (masks > 0).float(), shown)
        masks = shown * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc

        def run(embed: Tensor, masks: Tensor) -> Tensor:
            fused = encoder.feature_projection(embed)
            fused = fused + encoder.mask_downsampler(masks.to(self.dtype))
            return encoder.projection(encoder.memory_fuser(fused))

        memory = self._run("memory", run, _once(features.embed), masks)
        absent_code = self.blocks.occlusion_spatial_embedding_parameter
        if absent_code is not None:
            absent = (object_logits <= 0).to(memory.dtype)
            memory = memory + (absent * absent_code)[:, :, None, None]
        return memory

    def attend_memory(
        self,
        embed: Tensor,
        memories: list[tuple[int, Tensor]],
        pointers: list[tuple[int, Tensor]],
        *,
        span: int,
    ) -> Tensor:
        """Condition the current frame on the past.

        Args:
            embed: [B, C, h, w] raw.
            memories: (row of the temporal table, [B, 64, h, w]).
            pointers: (frames before the current one, signed, [B, C]).
            span: most pointers that are read, in 2..; scales their offsets to 0..1.

        Returns:
            [B, C, h, w].

        Raises:
            ValueError: nothing to attend to.
        """
        if not memories and not pointers:
            raise ValueError("no memory to attend to: give the first frame a prompt")
        table = self.blocks.memory_temporal_positional_encoding
        tokens, codes = [], []
        for slot, memory in memories:
            tokens.append(memory.to(embed.dtype).flatten(2).permute(2, 0, 1))
            codes.append(self.memory_position + table[slot])
        splits = self.hidden // self.memory_width if pointers else 0
        if pointers:
            stacked = torch.stack([pointer for _, pointer in pointers]).to(embed.dtype)
            stacked = stacked.unflatten(2, (splits, self.memory_width))
            tokens.append(stacked.transpose(1, 2).flatten(0, 1))  # [pointers * splits, B, 64]
            code = self._pointer_codes([offset for offset, _ in pointers], span)
            codes.append(code.repeat_interleave(splits, dim=0)[:, None])
        # dropout would draw for each row
        frame = embed if self.blocks.memory_attention.training else _once(embed)
        conditioned = self._run(
            "memory",
            partial(self._attend, self.blocks.memory_attention, pointers=splits * len(pointers)),
            frame.flatten(2).transpose(1, 2) + 0.1 * self.frame_position[:, 0].to(embed.dtype),
            torch.cat(tokens).transpose(0, 1),
            torch.cat(codes).to(embed.dtype),
            self.rope,
        )  # [B, h * w, C]
        return conditioned.transpose(1, 2).reshape(embed.shape)

    def _pointer_codes(self, offsets: list[int], span: int) -> Tensor:
        """Position codes of object pointers [P, 64]; SAM 2.0 has none."""
        if not self.blocks.config.enable_temporal_pos_encoding_for_object_pointers:
            return torch.zeros(len(offsets), self.memory_width, device=self.device)
        place = torch.tensor(offsets, dtype=torch.float32, device=self.device)
        code = sine_offsets(place / max(span - 1, 1), self.hidden)
        return self.blocks.temporal_positional_encoding_projection_layer(code.to(self.dtype))

    def object_pointer(self, tokens: Tensor, object_logits: Tensor) -> Tensor:
        """Pointers [B, C] of decoder tokens [B, C]; logits <= 0 give the absent pointer."""
        pointer = self.blocks.object_pointer_proj(tokens)
        present = (object_logits > 0).to(pointer.dtype)
        return present * pointer + (1 - present) * self.blocks.no_object_pointer

    def add_no_memory(self, embed: Tensor) -> Tensor:
        """Embed [B, C, h, w] for a frame that reads no memory."""
        return embed + self.blocks.no_memory_embedding[0, :, :, None, None].to(embed.dtype)

    # ---- a second decoder -------------------------------------------------------------------

    def keep_propagation_decoder(self) -> None:
        """Keep a frozen copy of the mask decoder, for propagation while the first one is tuned.

        Call it after the pretrained weights are in; ``decoder=model.propagation_decoder`` uses it.
        A decoder that is tuned frame by frame no longer fits SAM 2's memory (arXiv 2509.19082).
        """
        self.propagation_decoder = copied(self.blocks.mask_decoder).requires_grad_(False)

    # ---- position of the dense grid ---------------------------------------------------------

    def _dense_position(self) -> Tensor:
        """Point code of every cell of the grid [1, C, h, w], built anew when its matrix changes."""
        matrix = self.blocks.shared_image_embedding.positional_embedding
        key = (matrix.data_ptr(), matrix._version, matrix.device)
        if self._dense is None or self._dense[0] != key:
            # a table made in inference mode could not take part in a later training step
            with torch.inference_mode(False), torch.no_grad():
                self._dense = (key, self.blocks.get_image_wide_positional_embeddings())
        return self._dense[1]


def _with_tokens(sparse: Tensor, tokens: Tensor | None) -> Tensor:
    """Prompt tokens [B, 1, n, C] with those of language [B, K, C] behind them."""
    return sparse if tokens is None else torch.cat((sparse, tokens.to(sparse)[:, None]), dim=2)


def _once(rows: Tensor) -> Tensor:
    """One row in the place of rows that are one image's, repeated by ``expand``."""
    return rows[:1] if rows.stride(0) == 0 else rows


def build_sam2(
    config: Sam2VideoConfig,
    *,
    drop_path: float = 0.0,
    checkpointing: bool | Sequence[str] = False,
) -> Sam2:
    """A SAM 2 with random weights; see ``config.py`` for sizes."""
    return Sam2(blocks=Sam2VideoModel(config), drop_path=drop_path, checkpointing=checkpointing)
