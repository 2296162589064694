"""Objects that are tracked as one batch, and what is done with them on one frame.

Objects with prompts on the same frames have the same memories to read, so that they share a bank;
each row of a batch is tracked as if it were alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from projects.sam2_video.frame_reader import FrameReader
from projects.sam2_video.modeling.memory import MemoryBank
from projects.sam2_video.modeling.tracker import Tracker
from projects.sam2_video.modeling.typed import FrameFeatures, FrameOutput, MixedPrompt, Prompt
from projects.sam2_video.object_prompts import ObjectPrompt, to_network

PREVIOUS_LIMIT = 32.0  # Meta's bound of the logits that clicks correct


@dataclass
class ObjectGroup:
    """Objects with prompts and corrections on the same frames."""

    memory: MemoryBank
    rows: list[int] = field(default_factory=list)  # places in the output
    prompts: dict[int, list[ObjectPrompt]] = field(default_factory=dict)  # frame to one per row
    corrections: dict[int, list[ObjectPrompt]] = field(default_factory=dict)
    answers: dict[int, Tensor] = field(default_factory=dict)  # logits [B, 1, m, m] where prompted

    @property
    def first(self) -> int:
        """The first frame with a prompt."""
        return min(self.prompts)


def group_objects(
    prompts: Sequence[ObjectPrompt], *, chunk: int | None, new_memory: Callable[[], MemoryBank]
) -> list[ObjectGroup]:
    """Groups of at most ``chunk`` objects; rows are in the order in which prompts name objects."""
    by_object: dict[int, list[ObjectPrompt]] = {}
    for prompt in prompts:
        by_object.setdefault(prompt.object_id, []).append(prompt)
    groups: list[ObjectGroup] = []
    filling: dict[frozenset, ObjectGroup] = {}
    for row, of_object in enumerate(by_object.values()):
        frames = frozenset((prompt.frame, prompt.correction) for prompt in of_object)
        group = filling.get(frames)
        if group is None or len(group.rows) == chunk:
            group = filling[frames] = ObjectGroup(new_memory())
            groups.append(group)
        group.rows.append(row)
        for prompt in of_object:
            store = group.corrections if prompt.correction else group.prompts
            store.setdefault(prompt.frame, []).append(prompt)
    return groups


class GroupTracker:
    """Answers, tracks and corrects groups of one video, frame by frame.

    Args:
        tracker: the step that training and inference share.
        clean: what is done to the logits that a user sees (holes, specks).
        decoder: of frames without a prompt; None: the model's own.
        keep_corrections: corrected frames are remembered as conditioning ones.
        reader: of the video; a video of one frame needs no memory.
    """

    def __init__(
        self,
        *,
        tracker: Tracker,
        clean: Callable[[Tensor], Tensor],
        decoder: nn.Module | None,
        keep_corrections: bool,
        reader: FrameReader,
    ) -> None:
        self.tracker = tracker
        self.clean = clean
        self.decoder = decoder
        self.keep_corrections = keep_corrections
        self.reader = reader

    def answer(self, group: ObjectGroup, frame: int, features: FrameFeatures) -> None:
        """Decode and remember a prompted frame, without memory of others."""
        features = _repeat(features, len(group.rows))
        prompt = self._prompt(group.prompts[frame])
        output = self.tracker.step(
            features, frame, group.memory, prompt=prompt, use_memory=False, run_memory_encoder=False
        )
        self._clean(output)  # what is remembered of a prompted frame is what the user sees
        if len(self.reader.video) > 1:
            self.tracker.remember(features, frame, output, group.memory, prompt=prompt)
        group.answers[frame] = output.masks

    def follow(
        self, group: ObjectGroup, frame: int, features: FrameFeatures, *, reverse: bool
    ) -> Tensor:
        """Track a frame and correct it where that is asked for; logits [B, 1, m, m]."""
        features = _repeat(features, len(group.rows))
        corrected = frame in group.corrections
        # a corrected frame is remembered once it is corrected
        output = self.track(group, frame, features, reverse=reverse, remember=not corrected)
        self._clean(output)
        if corrected:
            output = self._correct(group, frame, features, output.masks, reverse)
        return output.masks

    def track(
        self,
        group: ObjectGroup,
        frame: int,
        features: FrameFeatures,
        *,
        reverse: bool,
        remember: bool,
    ) -> FrameOutput:
        """The group's rows on a frame without a prompt; its logits are remembered as they come."""
        return self.tracker.step(
            features,
            frame,
            group.memory,
            reverse=reverse,
            decoder=self.decoder,
            run_memory_encoder=remember,
        )

    def _correct(
        self,
        group: ObjectGroup,
        frame: int,
        features: FrameFeatures,
        tracked: Tensor,
        reverse: bool,
    ) -> FrameOutput:
        """Decode a tracked frame again, with clicks, and remember that answer."""
        previous = tracked.clamp(-PREVIOUS_LIMIT, PREVIOUS_LIMIT)
        prompt = self._prompt(group.corrections[frame], previous)
        output = self.tracker.step(
            features, frame, group.memory, prompt=prompt, reverse=reverse, run_memory_encoder=False
        )
        self._clean(output)
        self.tracker.remember(
            features,
            frame,
            output,
            group.memory,
            prompt=prompt,
            conditioning=self.keep_corrections,
        )
        return output

    def _clean(self, output: FrameOutput) -> None:
        output.masks = self.clean(output.masks)

    def _prompt(
        self, prompts: list[ObjectPrompt], previous: Tensor | None = None
    ) -> Prompt | MixedPrompt:
        model = self.tracker.model
        return to_network(
            prompts,
            size=self.reader.size,
            side=model.image_size,
            device=model.device,
            previous=previous,
        )


def _repeat(features: FrameFeatures, rows: int) -> FrameFeatures:
    """One image's features for each of ``rows`` objects, without a copy."""

    def repeat(level: Tensor) -> Tensor:
        return level.expand(rows, *level.shape[1:])

    kept = features.propagation_high_res
    return FrameFeatures(
        embed=repeat(features.embed),
        high_res=(repeat(features.high_res[0]), repeat(features.high_res[1])),
        propagation_high_res=None if kept is None else (repeat(kept[0]), repeat(kept[1])),
    )
