"""Ask the model about an image or a video: an answer in words, and a mask for each [SEG] in it.

    frames ──► sampled frames ──► language model ──► answer, [SEG] hidden states
                    │                                          │
                    ▼                                          ▼
              SAM 2, no memory ◄───────────────────────── language prompt
                    │  masks of the sampled frames: conditioning memory
                    ▼
              SAM 2 with memory: the frames between, after, and (backwards) before

The sampled frames are decoded exactly as in training. The others are SAM 2's own tracking. Where
the model keeps its original decoder, that one is given the masks of the sampled frames as if drawn
by a user, and never meets the tuned one's tokens and scores: a decoder that was tuned without
memory harms propagation (Sa2VA-i, arXiv 2509.19082). Masks leave as RLE, frame by frame, so that a
long video costs no more memory than a short one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from projects.common.masks import Rle, decode_rle, encode_rle
from projects.llava_sam2.datasets.frame_samplers import FrameSampler, UniformFrames
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.models.heads.segment import decode_language
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.region import Region, check_places, region_masks
from projects.llava_sam2.replies import Replies, Reply
from projects.sam2_video.modeling import FrameFeatures, MemoryBank, Prompt, Tracker, TrackingPolicy
from projects.sam2_video.object_prompts import ObjectPrompt, to_network

HEAD = "segment"


class Frames(Protocol):
    """A video: a frame folder, an mp4, or a row of a dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """RGB uint8 [H, W, 3]."""

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """RGB uint8 [T, H, W, 3]."""


@dataclass
class Answer:
    """One question's answer.

    ``masks[k][t]`` is the mask of the k-th [SEG] on frame t, RLE at the frames' own size; without a
    [SEG] in the answer ``masks`` is empty.
    """

    text: str
    masks: list[list[Rle]] = field(default_factory=list)

    def mask(self, frame: int, segment: int = 0) -> np.ndarray:
        """Mask of one [SEG] on one frame, bool [H, W]."""
        return decode_rle(self.masks[segment][frame], where=f"mask of the answer {self.text!r}")

    def decoded(self, segment: int = 0) -> np.ndarray:
        """Masks of one [SEG] on all frames, bool [T, H, W]."""
        return np.stack([self.mask(frame, segment) for frame in range(len(self.masks[segment]))])


class GroundedPredictor:
    """Answers questions about images and videos; several questions at once share the pictures.

    Args:
        model: trained; put it in eval mode first (``run_benchmark`` does).
        inputs: how it was trained to see and to be asked.
        frames: which frames of a video the language model sees, and [SEG] prompts.
        propagation_decoder: "original" (``grounding.propagation_decoder``, kept from before the
            decoder was tuned) or "tuned"; None: the original where the model keeps it.
        max_new_tokens: longest answer.
        use_visual: False feeds zeros in place of visual features to the language model.
        batch_size: questions answered at once.
        hide_absent: let the object score blank the masks of prompted frames. Off, as in training,
            where the language prompt does not teach that score.
        tracking: switches of the propagation; None: the model's ``inference_policy``. Where that
            says nothing, those of Meta's predictor for SAM 2's original decoder, as in training for
            a tuned one.
        temperature, top_p: 0 is the likeliest answer; otherwise answers are sampled, each from
            ``seed`` and its question's place alone.
        seed: of what is drawn: answers, and frames where the sampler draws.

    Raises:
        ValueError: "original" without a kept decoder.
    """

    def __init__(
        self,
        *,
        model: Sa2VA,
        inputs: GroundingInputs,
        frames: FrameSampler | None = None,
        propagation_decoder: Literal["original", "tuned"] | None = None,
        max_new_tokens: int = 32,
        use_visual: bool = True,
        batch_size: int = 16,
        hide_absent: bool = False,
        tracking: TrackingPolicy | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        if propagation_decoder not in ("original", "tuned", None):
            raise ValueError(
                f"propagation_decoder is 'original' or 'tuned', got {propagation_decoder!r}"
            )
        kept = model.grounding.propagation_decoder
        if propagation_decoder == "original" and kept is None:
            raise ValueError(
                "this model keeps no original decoder: build Sa2VA with "
                "propagation_decoder='original', or predict with 'tuned'"
            )
        self.model = model
        self.inputs = inputs
        self.frames = frames or UniformFrames(num=5)
        self.decoder = None if propagation_decoder == "tuned" else kept
        self.replies = Replies(
            mllm=model.mllm,
            inputs=inputs,
            max_new_tokens=max_new_tokens,
            use_visual=use_visual,
            batch_size=batch_size,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        self.prompter = Tracker(model.grounding, policy=TrackingPolicy(hide_absent=hide_absent))
        own = TrackingPolicy() if self.decoder is None else TrackingPolicy.meta_predictor()
        policy = tracking or model.inference_policy or own
        self.tracker = Tracker(model.grounding, policy=policy)
        self.seed = seed

    @torch.no_grad()
    def image(
        self,
        image: np.ndarray,
        questions: Sequence[str],
        *,
        regions: Sequence[Sequence[Region | np.ndarray]] | None = None,
        forced: Sequence[str] | None = None,
        name: str = "image",
    ) -> list[Answer]:
        """Answer questions about an image uint8 [H, W, 3]; masks have one frame.

        Args:
            regions: what each question points at: as many as it says ``<region>``, in order. A
                question that never says so is told of them, as in training, as region1, region2...
            forced: answers to put in the model's mouth (their [SEG] still gives the masks); None
                lets it speak.
            name: of the image, in errors.

        Raises:
            ValueError: regions and places for them differ in number, or a region is none.
        """
        given = [()] * len(questions) if regions is None else regions
        frames, masks = image[None], self.regions(image, questions, given, name=name)
        replies = self.replies.to(
            questions, frames, video=False, name=name, regions=masks, forced=forced
        )
        tokens = self._tokens(replies)
        if tokens is None:
            return _answers(replies, [])
        features = self._features(frames, len(tokens))
        found = decode_language(self.model.grounding, features, tokens)
        return _answers(replies, [self._to_rle(found.masks, image)])

    @torch.no_grad()
    def video(
        self,
        video: Frames,
        questions: Sequence[str],
        *,
        forced: Sequence[str] | None = None,
        name: str = "video",
    ) -> list[Answer]:
        """Answer questions about a video; masks cover all its frames. Arguments as in ``image``.

        Raises:
            ValueError: a question that says ``<region>``: regions are of images.
        """
        check_places(questions, [()] * len(questions), name)
        indices = self.frames(len(video), np.random.default_rng(self.seed))
        sampled = video.read(indices)
        replies = self.replies.to(questions, sampled, video=True, name=name, forced=forced)
        tokens = self._tokens(replies)
        if tokens is None:
            return _answers(replies, [])
        memory = self.tracker.new_memory(num_frames=len(video))
        masks = dict(self._prompt(sampled, indices, tokens, memory))
        backward = memory.rows(torch.arange(len(tokens), device=tokens.device))
        after = [index for index in range(indices[0], len(video)) if index not in masks]
        before = range(indices[0])[::-1]  # starts from the prompted frames alone
        masks |= self._propagate(video, after, memory, len(tokens), reverse=False)
        masks |= self._propagate(video, before, backward, len(tokens), reverse=True)
        return _answers(replies, [masks[index] for index in range(len(video))])

    @torch.no_grad()
    def regions(
        self,
        image: np.ndarray,
        questions: Sequence[str],
        regions: Sequence[Sequence[Region | np.ndarray]],
        *,
        name: str = "image",
    ) -> list[np.ndarray | None]:
        """The masks bool [R, H, W] of what each question points at; arguments as in ``image``."""
        check_places(questions, regions, name)
        return region_masks(
            regions, image.shape[:2], segment=lambda prompts: self._point(image, prompts), name=name
        )

    def _point(self, image: np.ndarray, prompts: Sequence[ObjectPrompt]) -> np.ndarray:
        """What boxes and clicks are on, bool [P, H, W], by the decoder that knows such prompts."""
        grounding, size = self.model.grounding, image.shape[:2]
        output = self.prompter.step(
            self._features(image[None], len(prompts)),
            0,
            self.prompter.new_memory(num_frames=1),
            prompt=to_network(
                prompts, size=size, side=grounding.image_size, device=grounding.device
            ),
            use_memory=False,
            run_memory_encoder=False,
            decoder=self.decoder,
        )
        return self._at_size(output.masks, size)

    # ---- from language to masks -------------------------------------------------------------

    def _tokens(self, replies: Sequence[Reply]) -> Tensor | None:
        """Language tokens [R, C] of all [SEG] of all replies, in order; None if there are none."""
        seg_hidden = torch.cat([reply.seg_hidden for reply in replies])
        return self.model.heads[HEAD].project(seg_hidden) if len(seg_hidden) else None

    # ---- masks: R rows, one a [SEG] ---------------------------------------------------------

    def _features(self, frames: np.ndarray, rows: int, index: int = 0) -> FrameFeatures:
        """Features of one of the frames uint8 [T, H, W, 3], for R rows."""
        grounding = self.model.grounding
        features = grounding.encode_frames(self.inputs.grounding_frames(frames[index : index + 1]))
        return features.rows(torch.zeros(rows, dtype=torch.int64, device=grounding.device))

    def _prompt(
        self, frames: np.ndarray, indices: Sequence[int], tokens: Tensor, memory: MemoryBank
    ) -> Iterator[tuple[int, list[Rle]]]:
        """Decode the sampled frames without memory, as in training, and remember them."""
        for place, index in enumerate(indices):
            features = self._features(frames, len(tokens), place)
            output = self.prompter.step(
                features,
                index,
                memory,
                prompt=Prompt(tokens=tokens[:, None]),
                use_memory=False,
                run_memory_encoder=self.decoder is None,
            )
            if self.decoder is not None:
                drawn = Prompt(mask=self.model.grounding.full_size(output.masks) > 0)
                self.tracker.step(features, index, memory, prompt=drawn, decoder=self.decoder)
            yield index, self._to_rle(output.masks, frames[place])

    def _propagate(
        self,
        video: Frames,
        indices: Iterable[int],
        memory: MemoryBank,
        rows: int,
        *,
        reverse: bool,
    ) -> Iterator[tuple[int, list[Rle]]]:
        """Track the other frames, one after another."""
        for index in indices:
            frame = video[index]
            output = self.tracker.step(
                self._features(frame[None], rows),
                index,
                memory,
                reverse=reverse,
                decoder=self.decoder,
            )
            yield index, self._to_rle(output.masks, frame)

    def _to_rle(self, masks: Tensor, frame: np.ndarray) -> list[Rle]:
        """Logits [R, 1, 4h, 4w] as R masks at the size of the frame [H, W, 3]."""
        return [encode_rle(mask) for mask in self._at_size(masks, frame.shape[:2])]

    def _at_size(self, masks: Tensor, size: tuple[int, int]) -> np.ndarray:
        """The same as masks bool [R, H, W]; as in Sa2VA by way of the size of SAM 2's input."""
        logits = self.model.grounding.full_size(masks)
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return (logits[:, 0] > 0).cpu().numpy()


def _answers(replies: Sequence[Reply], frames: Sequence[Sequence[Rle]]) -> list[Answer]:
    """Hand the R rows' masks, ``frames[t][r]``, back to the replies that asked for them."""
    answers, row = [], 0
    for reply in replies:
        rows = range(row, row + len(reply.seg_hidden))
        answers.append(Answer(reply.text, [[frame[r] for frame in frames] for r in rows]))
        row = rows.stop
    return answers
