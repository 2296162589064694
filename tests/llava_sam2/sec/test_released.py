"""Ours against SeC's released inference and losses, written again on PyPI's ``sam2``.

A folder in the layout of ``SeC-4B`` with small random weights goes to both sides; see released.py.
Logits are compared, of up to about 50.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from projects.common.video import FrameFolder, write_jpeg
from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.sec.loading import gate_shut, sec_from_folder
from projects.llava_sam2.structures import GroundingSample, collate_grounding
from projects.sam2_video.predictor import ObjectPrompt
from tests.llava_sam2.hf import original
from tests.llava_sam2.sec.released import SIDE, Released, outlined
from tests.sam2_video.meta_predictor import run_meta

TOLERANCE = 1e-3


@pytest.fixture(autouse=True)
def pillow(monkeypatch):
    """Pictures of the size of a tile by Pillow: torch's rounding may turn a frame that is near."""

    def pictures(self: ConceptInputs, frames: np.ndarray) -> Tensor:
        side = self.inputs.tiles.size
        small = [Image.fromarray(frame).resize((side, side)) for frame in frames]
        return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)

    monkeypatch.setattr(ConceptInputs, "pictures", pictures)


def write_clip(folder: Path, *, frames: int, height: int, width: int, scene: int) -> Path:
    """Two blocks that move; a new scene of other colours every ``scene`` frames."""
    folder.mkdir()
    noise = np.random.default_rng(3)
    for frame in range(frames):
        colours = np.random.default_rng(frame // scene).integers(0, 216, (3, 3))
        image = colours[0] + noise.integers(0, 40, (height, width, 3))
        image[block(height, width, frame, 0)] = colours[1]
        image[block(height, width, frame, 1)] = colours[2]
        write_jpeg(folder / f"{frame:05d}.jpg", image.astype(np.uint8), quality=95)
    return folder


def block(height: int, width: int, frame: int, which: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    top, left = height // 8 + which * height // 2, (3 + 2 * which) * frame % (width // 2)
    mask[top : top + height // 3, left : left + width // 3] = True
    return mask


def far(mine: dict[int, Tensor], row: int, theirs: dict[int, Tensor]) -> float:
    """The greatest distance of our logits of an object from theirs, on their frames."""
    return max(
        (
            F.interpolate(mine[f][row : row + 1], logits.shape[-2:], mode="bilinear") - logits
        ).abs().max().item()
        for f, logits in theirs.items()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("slots", "score", "height", "width", "scene", "starts"),
    [
        (22, 0.9, 56, 56, 3, (0, 18)),  # the object comes and goes; all slots are filled
        (7, -1.9, 73, 101, 2, (5,)),  # absent but for new scenes, of which some are certain
    ],
)
def test_masks_are_those_of_the_release(tmp_path, slots, score, height, width, scene, starts):
    """Each object for itself, one of them from a later frame on; pictures are resized or not."""
    video = write_clip(tmp_path / "video", frames=26, height=height, width=width, scene=scene)
    released = Released(slots=slots, score=score)
    model, recipe = sec_from_folder(released.write(tmp_path / "sec"), image_size=SIDE)
    masks = [block(height, width, start, which) for which, start in enumerate(starts)]
    prompts = [ObjectPrompt(s, s, mask=mask) for s, mask in zip(starts, masks, strict=True)]
    mine = dict(recipe.predictor(model).logits(FrameFolder(video), prompts))
    for row, start in enumerate(starts):
        theirs = released.track(video, masks[row], start)
        assert list(theirs) == list(range(start, 26))
        assert far(mine, row, theirs) < TOLERANCE
        assert all((mine[f][row] == -1024).all() for f in range(min(starts), start))
    # the case is one: asked often, of frames of both kinds, with references that came and went
    assert len(released.asked) >= 10 and 0 < sum(released.reliable) < len(released.reliable)
    joined = [len(shown) for shown in released.shown]
    assert max(joined) == 7 if score > 0 else max(joined) < len(joined)


def test_with_the_gate_shut_it_is_the_release_without_words_or_sam2(tmp_path):
    video = write_clip(tmp_path / "video", frames=9, height=56, width=56, scene=3)
    released = Released()
    folder = released.write(tmp_path / "sec")
    model, recipe = sec_from_folder(folder, image_size=SIDE, threshold=None)
    prompt = ObjectPrompt(1, 0, mask=block(56, 56, 0, 0))
    theirs = released.track(video, prompt.mask, 0, gate=False)
    for predictor in (recipe.predictor(model), gate_shut(folder, image_size=SIDE)):
        mine = dict(predictor.logits(FrameFolder(video), [prompt]))
        assert far(mine, 0, theirs) < TOLERANCE and not released.asked
    recipe.reliable_memory, recipe.tracking["fill_hole_area"] = False, 0
    plain = dict(recipe.predictor(model).logits(FrameFolder(video), [prompt]))
    assert far(plain, 0, run_meta(released.sam2, video, [prompt])) < TOLERANCE
    assert far(plain, 0, theirs) > 0.1


def test_losses_of_stage_2_are_the_published_ones(tmp_path):
    """Two rows, in one of which the object is gone; words by plain torch, masks by Meta's parts."""
    released = Released(score=4.0)
    model, recipe = sec_from_folder(released.write(tmp_path / "sec"), image_size=SIDE)
    frames = np.random.default_rng(0).integers(0, 256, (6, 56, 56, 3)).astype(np.uint8)
    asked, answered = "<image>Segment the red one.", "Sure, it is [SEG]."
    samples, targets = [], torch.zeros(2, 1, SIDE, SIDE)
    targets[0, 0, 20:70, 30:90] = 1
    for row, target in enumerate(targets):
        shown = [outlined(frames[3 * row + at], block(56, 56, at, row)) for at in (0, 1)]
        pictures = np.stack([*shown, frames[3 * row + 2]])
        encoded = recipe.inputs.inputs.conversation(
            [(asked, answered)], tiles=3, video=True, name="x"
        )
        samples.append(
            GroundingSample(
                task="concept",
                name="x",
                input_ids=encoded.input_ids,
                labels=encoded.labels,
                pixel_values=torch.from_numpy(pictures).permute(0, 3, 1, 2),
                grounding_frames=F.interpolate(
                    torch.from_numpy(frames[3 * row + 2]).permute(2, 0, 1)[None], (SIDE, SIDE)
                ),
                masks=target[None].bool(),
            )
        )
    with torch.no_grad():
        mine = model.loss(collate_grounding(samples))
        theirs = published_losses(released, samples, targets)
    for name, value in theirs.items():
        torch.testing.assert_close(mine[f"loss_{name}"], value, rtol=1e-4, atol=1e-5, msg=name)


def published_losses(released: Released, samples, targets: Tensor) -> dict[str, Tensor]:
    """Of B samples with one target [B, 1, S, S] each: all candidates, at the size of the frames."""
    rows, spelled = [], []
    for sample in samples:
        seen = original.visual_tokens(released.words, released.config, sample.pixel_values)
        embeddings = original.embedding_table(released.words)[sample.input_ids]
        embeddings[sample.input_ids == released.ids["<IMG_CONTEXT>"]] = seen.flatten(0, 1)
        hidden, logits = original.language(released.words, released.config, embeddings)
        spelled.append((logits[:-1], sample.labels[1:]))
        rows.append(released.candidates(sample.grounding_frames, hidden, sample.input_ids))
    logits, labels = (torch.cat(part) for part in zip(*spelled, strict=True))
    masks, iou, score = (torch.cat(part) for part in zip(*rows, strict=True))  # [B, 3, S, S], ...
    targets = targets.expand_as(masks)
    present = targets[:, 0].flatten(1).any(1).float()
    chance = masks.sigmoid()
    right = torch.where(targets > 0, chance, 1 - chance)
    weight = torch.where(targets > 0, 0.25, 0.75)
    surprise = F.binary_cross_entropy_with_logits(masks, targets, reduction="none")
    focal = (weight * (1 - right) ** 2 * surprise).mean((2, 3))
    both, either = (chance * targets).sum((2, 3)), (chance + targets).sum((2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    hard = masks > 0
    truth = (hard & (targets > 0)).sum((2, 3)) / (hard | (targets > 0)).sum((2, 3)).clamp(min=1)
    best = (20 * focal + dice).argmin(1, keepdim=True)
    return {
        "language": F.cross_entropy(logits, labels),
        "concept_mask": 20 * (focal.gather(1, best)[:, 0] * present).mean(),
        "concept_dice": (dice.gather(1, best)[:, 0] * present).mean(),
        "concept_iou": ((iou - truth).abs().mean(1) * present).mean(),
        "concept_class": F.binary_cross_entropy_with_logits(score[:, 0], present),
    }
