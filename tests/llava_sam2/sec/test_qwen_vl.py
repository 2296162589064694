"""Concept guidance with the other language models: Qwen-VL behind the same interface."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.native import NativeResolution
from projects.llava_sam2.models.heads import ConceptHead, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.sec.guidance import Guidance
from projects.llava_sam2.sec.predictor import SecInference
from projects.llava_sam2.sec.references import References
from projects.llava_sam2.structures import GroundingSample, collate_grounding
from projects.sam2_video.modeling import Sam2
from projects.sam2_video.toy import toy_sam2
from tests.llava_sam2.models.test_qwen_vl import KINDS, build, tokenizer  # noqa: F401
from tests.llava_sam2.sec.parts import ASK, prompt, square, video

TILES = dict(size=40, token=8, min_tokens=4, max_tokens=64)


@pytest.mark.parametrize(("kind", "frame_tokens"), [("2.5", (6, 30)), ("3", (6, 30)), ("3", None)])
def test_it_is_asked_as_it_was_trained(monkeypatch, tokenizer, kind, frame_tokens):  # noqa: F811
    """Frames keep their shape or are squares; two objects with one and two references at once."""
    mllm = build(kind, tokenizer)
    head = ConceptHead(projector=seg_projector(hidden=96, out=64), hide_absent=False)
    model = Sa2VA(mllm=mllm, grounding=toy_sam2(), heads={"concept": head}, trainable=["*"]).eval()
    inputs = GroundingInputs(
        tokenizer=tokenizer,
        template=KINDS[kind],
        tiles=NativeResolution(**TILES, frame_tokens=frame_tokens),
        tokens_per_tile=mllm.image_tokens_per_tile,
        grounding_size=96,
    )
    shown, clip = ConceptInputs(inputs=inputs, **ASK), video(6, changes=(3,))
    samples, objects = [], []
    guidance = Guidance(mllm=mllm, head=head, inputs=shown)
    for frames in ((0,), (0, 2)):
        outlined = [shown.outline(clip[frame], square(frame)) for frame in frames]
        pictures = shown.pictures(np.stack([*outlined, clip[5]]))
        assert (pictures.shape[-1] > pictures.shape[-2]) == (frame_tokens is not None)
        encoded = shown.conversation(shown.first(), pictures=pictures, name="x")
        samples.append(
            GroundingSample(
                task="concept",
                name="x",
                input_ids=encoded.input_ids,
                labels=encoded.labels,
                pixel_values=pictures,
                grounding_frames=inputs.grounding_frames(clip[5:]),
                masks=torch.ones(1, 1, 48, 48, dtype=torch.bool),
            )
        )
        objects.append(References(kept=6))
        for frame in frames:
            mask = square(frame)
            objects[-1].add(guidance.reference(frame, clip[frame], mask, prompted=False))
    heard, decode = [], Sam2.decode_masks

    def noted(self, features, *args, **options):
        heard.append(features.embed)
        return decode(self, features, *args, **options)

    monkeypatch.setattr(Sam2, "decode_masks", noted)
    with torch.no_grad():
        model.loss(collate_grounding(samples))
        concepts = guidance.concepts(objects, guidance.look(clip[5]))
        features = model.grounding.encode_frames(inputs.grounding_frames(clip[[5, 5]]))
        embed = head.condition(model.grounding, features, concepts)
    assert (concepts[0] - concepts[1]).abs().max() > 0.01
    torch.testing.assert_close(embed, heard[0], rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    predictor = SecInference(inputs=shown).predictor(model)
    assert len(list(predictor.propagate(clip, [prompt()]))) == 6
