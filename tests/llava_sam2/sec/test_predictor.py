"""SeC's predictor: SAM 2, and where a scene begins the language model has half of the say."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from projects.llava_sam2.datasets.concept_inputs import ConceptInputs
from projects.llava_sam2.sec.guidance import Guidance
from projects.llava_sam2.sec.predictor import SecInference, SecPredictor
from projects.llava_sam2.sec.references import References
from projects.llava_sam2.structures import GroundingSample, collate_grounding
from projects.sam2_video.modeling import Prompt, Sam2, Tracker, TrackingPolicy
from projects.sam2_video.predictor import ObjectPrompt
from tests.llava_sam2.sec import parts
from tests.llava_sam2.sec.parts import prompt, square, video

TWO = [prompt(1), prompt(2, top=40)]


@pytest.fixture(scope="module")
def model_and_inputs(tmp_path_factory):
    return parts.concept_model(tmp_path_factory.mktemp("words"))


@pytest.fixture
def build(model_and_inputs):
    model, inputs = model_and_inputs
    return lambda **settings: parts.predictor(model, inputs, **settings)


def masks_of(predictor, clip, prompts, **options):
    return {frame: masks for frame, masks in predictor.propagate(clip, prompts, **options)}


def logits_of(predictor, clip, prompts, **options):
    return {frame: logits for frame, logits in predictor.logits(clip, prompts, **options)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[f], second[f]) for f in first)


# ---- where nothing is asked --------------------------------------------------------------------


def test_with_the_gate_off_it_is_sam2s_predictor_to_the_last_bit(model_and_inputs, build):
    model, _ = model_and_inputs
    clip = video(8, changes=(3, 6))
    late = [*TWO, prompt(3, frame=4, top=24)]
    click = ObjectPrompt(5, 2, points=np.array([[20.0, 20.0]]), labels=np.array([1]))
    fix = ObjectPrompt(1, 5, points=np.array([[30.0, 30.0]]), labels=np.array([0]), correction=True)
    plain = model.video_predictor()
    plain.resize = "meta"
    cases = [(TWO, "forward"), (late, "both"), ([click], "both"), ([prompt(1), fix], "forward")]
    for prompts, direction in cases:
        expected = logits_of(plain, clip, prompts, direction=direction)
        for gate in (dict(threshold=None), dict(threshold=2.0)):  # no guidance; a gate that is shut
            assert same(expected, logits_of(build(**gate), clip, prompts, direction=direction))
    assert any((masks > 0).any() for masks in expected.values())
    shut = build(threshold=None)
    assert shut.guidance is None and type(shut) is SecPredictor
    assert shut.settings() == plain.settings() | {"reliable_memory": False}


def test_the_language_model_is_asked_only_where_a_scene_begins(
    monkeypatch, model_and_inputs, build
):
    model, _ = model_and_inputs
    seen = parts.count_calls(monkeypatch, model)
    masks_of(build(), video(9), TWO)
    assert not any(seen.values())
    masks_of(build(), video(9, changes=(3, 6)), TWO)
    # twice about two objects at once; references pass the vision tower once, the frame once for all
    assert seen["asked"] == [2, 2] and seen["pictures"] == [1, 2, 1, 2]
    for counts in seen.values():
        counts.clear()
    masks_of(build(reliable_memory=True), video(9, changes=(3,)), TWO)  # objects one by one
    assert seen["asked"] == [1, 1] and seen["pictures"] == [1, 1, 1]
    seen["asked"].clear()
    masks_of(build(batch_size=1), video(9, changes=(3,)), TWO)
    assert seen["asked"] == [1, 1]
    late = [prompt(1), prompt(2, frame=6, top=40)]
    seen["asked"].clear()
    masks_of(build(), video(9, changes=(3,)), late)
    assert seen["asked"] == [1]  # the second object is not there yet


# ---- what is said where a scene begins ---------------------------------------------------------


def test_memory_and_concept_have_half_of_the_say_each(model_and_inputs, build):
    """The changed frame from SAM 2's verbs, token_attn and the language model, called by hand."""
    model, inputs = model_and_inputs
    sam2, head, mllm = model.grounding, model.heads["concept"], model.mllm
    clip = video(4, changes=(3,))
    found = logits_of(build(), clip, [prompt()])
    with torch.no_grad():
        tracker = Tracker(sam2, policy=TrackingPolicy.meta_predictor())
        memory = tracker.new_memory(num_frames=4)
        small = [Image.fromarray(frame).resize((96, 96)) for frame in clip]
        frames = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)
        given = F.interpolate(
            torch.tensor(square(0))[None, None].float(), (96, 96), mode="bilinear", antialias=True
        )
        for index in range(3):
            asked = Prompt(mask=given >= 0.5) if index == 0 else None
            features = sam2.encode_frames(frames[index : index + 1])
            tracker.step(features, index, memory, prompt=asked, use_memory=index > 0)
        features = sam2.encode_frames(frames[3:])
        seen = tracker.condition(features, 3, memory).embed
        shown = np.stack([inputs.outline(clip[0], square(0)), clip[3]])
        ids = inputs.conversation(inputs.first(), pictures=2, name="x").input_ids[None]
        hidden = mllm(ids, torch.ones_like(ids, dtype=torch.bool), inputs.pictures(shown))
        concept = head.text_hidden_fcs(hidden[ids == mllm.seg_id])
        said = head.condition(sam2, features, concept)
        assert (said - seen).abs().mean() > 0.1
        expected = tracker.decode(features.with_embed((said + seen) / 2), None).masks
    torch.testing.assert_close(found[3], expected, rtol=1e-4, atol=1e-4)
    without = logits_of(build(threshold=None), clip, [prompt()])
    assert all(torch.equal(found[f], without[f]) for f in range(3))
    assert (found[3] - without[3]).abs().max() > 0.05


def test_inference_asks_as_training_did(monkeypatch, model_and_inputs):
    """Concepts and masks of the training forward from the predictor's references."""
    model, inputs = model_and_inputs
    head, clip = model.heads["concept"], video(6, changes=(5,))
    shown = [inputs.outline(clip[f], square(f)) for f in (0, 2, 4)]
    encoded = inputs.conversation(inputs.first(), pictures=4, name="x")
    sample = GroundingSample(
        task="concept",
        name="x",
        input_ids=encoded.input_ids,
        labels=encoded.labels,
        pixel_values=inputs.pictures(np.stack([*shown, clip[5]])),
        grounding_frames=inputs.inputs.grounding_frames(clip[5:]),
        masks=torch.ones(1, 1, 48, 48, dtype=torch.bool),
    )
    heard, decode = [], Sam2.decode_masks

    def noted(self, features, *args, **options):
        heard.append(features.embed)
        return decode(self, features, *args, **options)

    monkeypatch.setattr(Sam2, "decode_masks", noted)
    model.loss(collate_grounding([sample]))
    guidance = Guidance(mllm=model.mllm, head=head, inputs=inputs)
    references = References(kept=6)
    for frame in (0, 2, 4):
        references.add(guidance.reference(frame, clip[frame], square(frame), prompted=False))
    with torch.no_grad():
        concepts = guidance.concepts([references], guidance.look(clip[5]))
        features = model.grounding.encode_frames(inputs.inputs.grounding_frames(clip[5:]))
        embed = head.condition(model.grounding, features, concepts)
    torch.testing.assert_close(embed, heard[0], rtol=1e-4, atol=1e-5)


def test_objects_do_not_disturb_one_another(build):
    """Together, one at a time, and with another number of references each."""
    clip = video(10, changes=(3, 6))
    prompts = [prompt(1), prompt(2, frame=4, top=40)]
    together = masks_of(build(), clip, prompts)
    split = masks_of(build(batch_size=1), clip, prompts)
    for row, alone in enumerate(prompts):
        single = masks_of(build(), clip, [alone])
        for frame, masks in single.items():
            np.testing.assert_array_equal(together[frame][row], masks[0])
            np.testing.assert_array_equal(split[frame][row], masks[0])


# ---- what is kept ------------------------------------------------------------------------------


def kept_frames(monkeypatch, predictor, clip, prompts, **options):
    """Frames of the references, by object, when the video has been tracked."""
    made, tracking = [], SecPredictor._tracking

    def noted(self, reader):
        made.append(tracking(self, reader))
        return made[-1]

    monkeypatch.setattr(SecPredictor, "_tracking", noted)
    masks_of(predictor, clip, prompts, **options)
    return [[one.frame for one in references] for references in made[0].references.values()]


def fill_score(model, value):
    model.grounding.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(value)


def test_the_first_and_the_last_six_are_kept(monkeypatch, build):
    always = dict(threshold=-1.0)
    clip = video(12)
    assert kept_frames(monkeypatch, build(**always), clip, TWO) == [[0, *range(6, 12)]] * 2
    assert kept_frames(monkeypatch, build(**always, kept=2), clip, [prompt()]) == [[0, 10, 11]]
    assert kept_frames(monkeypatch, build(**always, kept=0), clip, [prompt()]) == [[0]]
    changes = video(12, changes=(2, 5, 9))
    assert kept_frames(monkeypatch, build(), changes, [prompt()]) == [[0, 2, 5, 9]]


def test_backward_starts_from_what_the_user_gave(monkeypatch, build):
    clip = video(9)
    prompts = [prompt(frame=3), prompt(frame=5)]
    found = kept_frames(monkeypatch, build(threshold=-1.0), clip, prompts, direction="both")
    assert found == [[3, 5, 2, 1, 0]]


@pytest.mark.parametrize("reliable_memory", [True, False])
def test_backward_is_forward_through_the_video_turned_round(build, reliable_memory):
    """From a prompt in the middle: scene changes, references and memory go by the tracking."""
    clip, settings = video(14, changes=(3, 5, 8)), dict(reliable_memory=reliable_memory)
    given = square(9)
    back = logits_of(build(**settings), clip, [ObjectPrompt(1, 9, mask=given)], direction="both")
    turned = logits_of(build(**settings), clip[::-1], [ObjectPrompt(1, 4, mask=given)])
    assert sorted(back) == list(range(14)) and sorted(turned) == list(range(4, 14))
    for frame in range(10):
        assert torch.equal(back[frame], turned[13 - frame])
    without = logits_of(
        build(threshold=None, **settings), clip[::-1], [ObjectPrompt(1, 4, mask=given)]
    )
    assert not torch.equal(turned[6], without[6])


@pytest.mark.parametrize(("score", "expected"), [(1.4, [0, 3]), (0.6, [0]), (-3.0, [0])])
def test_only_certain_frames_join(monkeypatch, model_and_inputs, build, score, expected):
    model, _ = model_and_inputs
    head = model.grounding.blocks.mask_decoder.pred_obj_score_head.proj_out
    weight = head.weight.detach().clone()
    try:
        head.weight.data.zero_()
        fill_score(model, score)
        clip = video(6, changes=(3,))
        assert kept_frames(monkeypatch, build(), clip, [prompt()]) == [expected]
    finally:
        head.weight.data.copy_(weight)
        fill_score(model, 3.0)


def test_an_empty_mask_joins_nothing(monkeypatch, build):
    clip = video(6, changes=(3,))
    empty = build()
    # what the user sees has no pixel left
    monkeypatch.setattr(empty, "_clean", lambda logits: torch.full_like(logits, -5.0))
    (frames,) = kept_frames(monkeypatch, empty, clip, [prompt()])
    assert frames == [0]


def test_a_click_is_outlined_by_its_answer(monkeypatch, model_and_inputs, build):
    model, inputs = model_and_inputs
    click = ObjectPrompt(1, 0, points=np.array([[18.0, 22.0]]), labels=np.array([1]))
    clip = video(3)
    drawn, outline = [], ConceptInputs.outline

    def noted(self, image, mask):
        drawn.append(mask)
        return outline(self, image, mask)

    monkeypatch.setattr(ConceptInputs, "outline", noted)
    masks = masks_of(build(), clip, [click])
    np.testing.assert_array_equal(drawn[0], masks[0][0])


# ---- cost --------------------------------------------------------------------------------------


def stored_bytes():
    """Tensors that live, each memory counted once."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    )


def test_a_frame_costs_the_same_however_long_the_video(monkeypatch, model_and_inputs, build):
    """Asked on every frame, which is the most that can be kept; 200 frames hold what 50 do.

    Counted are bytes of tensors, and per frame: what memory attention reads, the pictures that the
    vision tower sees, and the tokens of the language model.
    """
    model, _ = model_and_inputs
    seen, work = parts.count_calls(monkeypatch, model), []
    attend = Sam2.attend_memory

    def counted(self, embed, memories, pointers, **options):
        work.append([len(memories), len(pointers)])
        return attend(self, embed, memories, pointers, **options)

    monkeypatch.setattr(Sam2, "attend_memory", counted)
    predictor = build(threshold=-1.0, reliable_memory=True)
    clip, stored = video(200), {}
    for frame, masks in predictor.propagate(clip, [prompt()]):
        if frame in (50, 199):
            del masks
            stored[frame] = stored_bytes()
        if work:
            work[-1] += [*seen["pictures"], *seen["tokens"]]
            for counts in seen.values():
                counts.clear()
    assert stored[50] == stored[199]
    assert len(work) == 199 and work[0] != work[50] and all(w == work[50] for w in work[50:])


# ---- mistakes ----------------------------------------------------------------------------------


def test_mistakes_are_told(model_and_inputs):
    model, inputs = model_and_inputs
    with pytest.raises(ValueError, match="no concept head 'segment' .it has concept."):
        SecInference(inputs=inputs, task="segment").predictor(model)
    with pytest.raises(ValueError, match="kept is at least 0, batch_size at least 1; got -1, 4"):
        SecInference(inputs=inputs, kept=-1).predictor(model)
    with pytest.raises(ValueError, match="they may overlap"):
        SecPredictor(
            model.grounding, reliable_memory=True, policy=TrackingPolicy(non_overlapping=True)
        )
    with pytest.raises(TypeError, match="unexpected keyword argument 'resise'"):
        SecPredictor(model.grounding, resise="meta")


def test_settings_say_how_it_asks(build):
    said, other = build().settings(), build(threshold=0.5, colours="rgb").settings()
    assert said["scene_threshold"] == 0.35 and said["scene_colours"] == "swapped"
    assert other["scene_threshold"] == 0.5 and other["scene_colours"] == "rgb"
    assert "segment it" in said["asks"] and said["kept"] == 6
