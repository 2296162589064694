"""Video object segmentation: prompts on some frames, masks on all, batched over objects.

Objects that are prompted on the same frames share a memory bank and are tracked as one batch; each
object is tracked as if it were alone (Ravi et al., 2024). Frames are read one at a time, and the
memory does not grow with the length of the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from projects.sam2_video.modeling.blocks import Sam2
from projects.sam2_video.modeling.memory import MemoryBank
from projects.sam2_video.modeling.tracker import Tracker, TrackingPolicy
from projects.sam2_video.modeling.typed import FrameFeatures, MixedPrompt, Prompt


class Video(Protocol):
    """Frames that are read when asked for; a numpy array ``[T, H, W, 3]`` is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """RGB uint8 ``[H, W, 3]``."""
        ...


@dataclass(frozen=True)
class ObjectPrompt:
    """What a user says about one object on one frame, in pixels of the video.

    Either ``mask``, or ``box`` and/or ``points``.
    """

    object_id: int
    frame: int
    points: np.ndarray | None = None  # float [P, 2], (x, y)
    labels: np.ndarray | None = None  # int [P], 1 positive, 0 negative
    box: np.ndarray | None = None  # float [4], x1, y1, x2, y2
    mask: np.ndarray | None = None  # bool [H, W]

    def __post_init__(self) -> None:
        where = f"prompt of object {self.object_id} on frame {self.frame}"
        if self.mask is not None and (self.points is not None or self.box is not None):
            raise ValueError(f"{where}: give a mask, or points and a box, not both")
        nothing = self.points is None or len(self.points) == 0
        if self.mask is None and self.box is None and nothing:
            raise ValueError(f"{where}: give points, a box or a mask")
        if (self.points is None) != (self.labels is None):
            raise ValueError(f"{where}: points need a label each (1 positive, 0 negative)")
        if self.points is not None and len(self.points) != len(self.labels):
            raise ValueError(f"{where}: {len(self.points)} points and {len(self.labels)} labels")


@dataclass
class _Group:
    """Objects with prompts on the same frames: one bank, one batch."""

    rows: list[int]  # places in the output
    prompts: dict[int, list[ObjectPrompt]]  # frame to one prompt per row
    memory: MemoryBank
    masks: dict[int, Tensor]  # answers on the prompted frames, logits [B, 1, m, m]

    @property
    def first(self) -> int:
        return min(self.prompts)


class VideoPredictor:
    """Segments the prompted objects through a video.

    Args:
        sam2: the network; used in eval mode and without gradient, its mode is restored.
        policy: None is Meta's predictor (``TrackingPolicy.meta_predictor()``).
        decoder: the mask decoder of frames without a prompt: the model's own, or the
            ``propagation`` one that it keeps.
    """

    def __init__(
        self,
        sam2: Sam2,
        *,
        policy: TrackingPolicy | None = None,
        decoder: Literal["own", "propagation"] = "own",
    ) -> None:
        if decoder == "propagation" and sam2.propagation_decoder is None:
            raise ValueError("the model keeps no propagation decoder: keep_propagation_decoder()")
        self.sam2 = sam2
        self.tracker = Tracker(sam2, policy=policy or TrackingPolicy.meta_predictor())
        self.decoder = sam2.propagation_decoder if decoder == "propagation" else None

    def propagate(
        self,
        video: Video,
        prompts: Sequence[ObjectPrompt],
        *,
        direction: Literal["forward", "backward", "both"] = "forward",
        max_frames: int | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(frame index, masks)`` frame by frame.

        Forward starts at the earliest prompted frame, backward runs from there to frame 0, and
        ``both`` gives the forward frames first, then those before the start. Going forward, an
        object is absent until the frame of its first prompt; going backward, every object is
        tracked from its own first prompt on. Prompted frames are answered without memory.

        Args:
            video: RGB frames of one size.
            prompts: at most one per object and frame.
            max_frames: frames at most, in each direction.

        Yields:
            masks bool ``[O, H, W]``, objects in the order in which ``prompts`` first name them.

        Raises:
            ValueError: no prompt, two for one object and frame, or one outside of the video.
        """
        if direction not in ("forward", "backward", "both"):
            raise ValueError(f"direction must be forward, backward or both, got {direction!r}")
        self._check(video, prompts)
        return self._run(video, prompts, direction, max_frames)

    def object_ids(self, prompts: Sequence[ObjectPrompt]) -> list[int]:
        """The order of the objects in what :meth:`propagate` yields."""
        return list(dict.fromkeys(prompt.object_id for prompt in prompts))

    def _check(self, video: Video, prompts: Sequence[ObjectPrompt]) -> None:
        if not prompts:
            raise ValueError("nothing to track: give at least one prompt")
        seen = set()
        for prompt in prompts:
            where = f"object {prompt.object_id} on frame {prompt.frame}"
            if not 0 <= prompt.frame < len(video):
                raise ValueError(f"prompt of {where}: the video has {len(video)} frames")
            if (prompt.object_id, prompt.frame) in seen:
                raise ValueError(f"two prompts of {where}: join them into one")
            seen.add((prompt.object_id, prompt.frame))

    def _run(
        self,
        video: Video,
        prompts: Sequence[ObjectPrompt],
        direction: str,
        max_frames: int | None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        groups = self._group(prompts, len(video))
        frames = sorted({prompt.frame for prompt in prompts})
        for frame in frames:
            image = video[frame]
            with inference(self.sam2):
                features = self._encode(image)
                for group in groups:
                    if frame in group.prompts:
                        self._answer(group, frame, features, image.shape[:2], len(video) > 1)
        start = frames[0]
        limit = len(video) if max_frames is None else max_frames
        forward = range(start, min(start + limit, len(video)))
        backward = range(start, max(start - limit, -1), -1)
        if direction != "backward":
            yield from self._track(video, groups, forward, reverse=False)
        if direction == "backward":
            yield from self._track(video, groups, backward, reverse=True)
        elif direction == "both":
            for group in groups:
                group.memory.tracked.clear()
            yield from self._track(video, groups, backward[1:], reverse=True)

    def _track(
        self, video: Video, groups: list[_Group], frames: range, *, reverse: bool
    ) -> Iterator[tuple[int, np.ndarray]]:
        for frame in frames:
            image = video[frame]
            with inference(self.sam2):
                masks = self._frame(groups, frame, image, reverse)
            yield frame, masks

    def _frame(
        self, groups: list[_Group], frame: int, image: np.ndarray, reverse: bool
    ) -> np.ndarray:
        """bool ``[O, H, W]`` of one frame."""
        height, width = image.shape[:2]
        masks = np.zeros((sum(len(group.rows) for group in groups), height, width), dtype=bool)
        features: FrameFeatures | None = None
        for group in groups:
            if frame in group.masks:
                logits = group.masks[frame]
            elif not reverse and frame < group.first:
                continue
            else:
                features = features or self._encode(image)
                output = self.tracker.step(
                    self._repeat(features, len(group.rows)),
                    frame,
                    group.memory,
                    reverse=reverse,
                    decoder=self.decoder,
                )
                logits = output.masks
            masks[group.rows] = self._to_video(logits, height, width)
        return masks

    def _answer(
        self,
        group: _Group,
        frame: int,
        features: FrameFeatures,
        size: tuple[int, int],
        remember: bool,
    ) -> None:
        """Decode and remember a prompted frame, without memory of others."""
        prompt = self._prompt(group.prompts[frame], size)
        output = self.tracker.step(
            self._repeat(features, len(group.rows)),
            frame,
            group.memory,
            prompt=prompt,
            use_memory=False,
            run_memory_encoder=remember,
        )
        group.masks[frame] = output.masks

    def _group(self, prompts: Sequence[ObjectPrompt], num_frames: int) -> list[_Group]:
        by_object: dict[int, dict[int, ObjectPrompt]] = {}
        for prompt in prompts:
            by_object.setdefault(prompt.object_id, {})[prompt.frame] = prompt
        groups: dict[tuple[int, ...], _Group] = {}
        for row, of_object in enumerate(by_object.values()):
            key = tuple(sorted(of_object))
            if key not in groups:
                memory = self.tracker.new_memory(num_frames=num_frames)
                groups[key] = _Group([], {frame: [] for frame in key}, memory, {})
            groups[key].rows.append(row)
            for frame in key:
                groups[key].prompts[frame].append(of_object[frame])
        return list(groups.values())

    def _prompt(self, prompts: list[ObjectPrompt], size: tuple[int, int]) -> Prompt | MixedPrompt:
        """Prompts of B objects on one frame, in pixels of the square input."""
        given = [row for row, prompt in enumerate(prompts) if prompt.mask is not None]
        pointed = [row for row, prompt in enumerate(prompts) if prompt.mask is None]
        parts: list[tuple[Tensor, Prompt]] = []
        if given:
            masks = torch.stack([self._to_input(prompts[row], size) for row in given])
            parts.append((torch.tensor(given), Prompt(mask=masks)))
        if pointed:
            points, labels = self._points([prompts[row] for row in pointed], size)
            parts.append((torch.tensor(pointed), Prompt(points=points, labels=labels)))
        return parts[0][1] if len(parts) == 1 else MixedPrompt(len(prompts), parts)

    def _points(self, prompts: list[ObjectPrompt], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """points ``[B, P, 2]`` and labels ``[B, P]``; a box comes first, short rows end in -1."""
        height, width = size
        scale = torch.tensor([self.sam2.image_size / width, self.sam2.image_size / height])
        rows = []
        for prompt in prompts:
            points, labels = torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
            if prompt.box is not None:
                points = torch.as_tensor(np.asarray(prompt.box, np.float32)).reshape(2, 2)
                labels = torch.tensor([2, 3])
            if prompt.points is not None:
                clicks = torch.as_tensor(np.asarray(prompt.points, np.float32)).reshape(-1, 2)
                points = torch.cat([points, clicks])
                labels = torch.cat([labels, torch.as_tensor(np.asarray(prompt.labels)).long()])
            rows.append((points * scale, labels))
        longest = max(len(labels) for _, labels in rows)
        points = torch.stack([F.pad(p, (0, 0, 0, longest - len(p))) for p, _ in rows])
        labels = torch.stack([F.pad(n, (0, longest - len(n)), value=-1) for _, n in rows])
        return points.to(self.sam2.device), labels.to(self.sam2.device)

    def _to_input(self, prompt: ObjectPrompt, size: tuple[int, int]) -> Tensor:
        """A mask at the input's resolution, bool ``[1, S, S]``."""
        mask = torch.as_tensor(np.asarray(prompt.mask), device=self.sam2.device)
        if tuple(mask.shape) != tuple(size):
            raise ValueError(
                f"mask of object {prompt.object_id} on frame {prompt.frame} is "
                f"{tuple(mask.shape)}, the frame {tuple(size)} (height, width)"
            )
        mask = mask.bool()  # also of 0 and 255
        side = self.sam2.image_size
        if tuple(size) == (side, side):
            return mask[None]
        resized = F.interpolate(
            mask.float()[None, None],
            (side, side),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return resized[0] >= 0.5

    def _to_video(self, logits: Tensor, height: int, width: int) -> np.ndarray:
        """Logits ``[B, 1, m, m]`` as bool masks ``[B, H, W]`` of the video's size."""
        masks = F.interpolate(logits.float(), (height, width), mode="bilinear", align_corners=False)
        return (masks[:, 0] > 0).cpu().numpy()

    def _encode(self, image: np.ndarray) -> FrameFeatures:
        """Features of one frame, resized to the square input as in training."""
        frame = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        side = self.sam2.image_size
        if frame.shape[-2:] != (side, side):
            frame = resize_frames(frame, side)
        return self.sam2.encode_frames(frame.to(self.sam2.device))

    @staticmethod
    def _repeat(features: FrameFeatures, rows: int) -> FrameFeatures:
        return features.rows(torch.zeros(rows, dtype=torch.long, device=features.embed.device))


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradient for a while; each module gets its own mode back.

    Not ``torch.inference_mode``: tables that the model caches must stay usable in training.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def resize_frames(frames: Tensor, side: int) -> Tensor:
    """uint8 ``[N, 3, H, W]`` to ``[N, 3, side, side]``, as the training's ``ResizeSquare``."""
    return resize(frames, [side, side], antialias=True)
