"""Folders and configs become SeC's predictor, and the command that tracks a data set with it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from projects.common.masks import read_palette_png, write_palette_png
from projects.llava_sam2.datasets.concept_inputs import ANSWERS, QUESTIONS, RELEASED_QUESTION
from projects.llava_sam2.evaluation.concept import ConceptVosBenchmark
from projects.llava_sam2.hf import export
from projects.llava_sam2.models.heads import seg_projector
from projects.llava_sam2.sec import command as command_line
from projects.llava_sam2.sec.command import SecSpec
from projects.llava_sam2.sec.loading import gate_shut, recipe_of, sec_from_folder
from projects.llava_sam2.sec.predictor import SecInference
from projects.sam2_video.data.png import PaletteSource
from projects.sam2_video.evaluation.vos import VosBenchmark
from tests.llava_sam2.hf.test_grounded import SIDE, write_release
from tests.llava_sam2.sec import parts
from tests.llava_sam2.sec.parts import prompt, square, video
from tools import convert_to_hf, vos_inference


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    return folder, write_release(folder, "sec")


def write_davis(root, clip):
    """Two videos of the same frames, the objects 1 and 2 annotated on all of them."""
    for name in ("first", "second"):
        for folder in ("images", "masks"):
            (root / folder / name).mkdir(parents=True)
        for frame, image in enumerate(clip):
            Image.fromarray(image).save(root / "images" / name / f"{frame:05d}.jpg", quality=95)
            ids = square(frame) + 2 * square(frame, 40).astype(np.uint8)
            write_palette_png(root / "masks" / name / f"{frame:05d}.png", ids)


def test_the_released_folder_is_asked_as_it_was_trained(released):
    folder, state = released
    model, recipe = sec_from_folder(folder, image_size=SIDE)
    head = model.heads["concept"]
    name = "grounding_encoder.token_attn.layers.0.linear1.weight"
    assert torch.equal(head.token_attn.layers[0].linear1.weight, state[name].float())
    assert torch.equal(head.text_hidden_fcs[2].weight, state["text_hidden_fcs.2.weight"].float())
    predictor = recipe.predictor(model)
    asked = predictor.guidance.inputs
    assert asked.first() == (RELEASED_QUESTION, "")
    assert asked.inputs.template == "qwen_chat"
    assert asked.inputs.tokens_per_tile == model.mllm.image_tokens_per_tile
    said = predictor.settings()
    assert (said["scene_threshold"], said["scene_colours"], said["kept"]) == (0.35, "swapped", 6)
    assert (said["reliable_memory"], said["fill_hole_area"], said["min_object_logit"]) == (
        True,
        8,
        1,
    )
    assert predictor.tracker.model.num_maskmem == 22
    masks = [mask for _, mask in predictor.propagate(video(4, changes=(2,)), [prompt()])]
    assert len(masks) == 4


def test_an_export_tracks_as_its_config_says(tmp_path):
    """Asked in its own words, with its own gate and references."""
    model, inputs = parts.concept_model(tmp_path / "words")
    model.inference_policy = None
    settings = dict(threshold=0.2, kept=1, min_object_logit=0.5, colours="rgb", fill_hole_area=3)
    recipe = SecInference(inputs=inputs, reliable_memory=False, resize="training", **settings)
    said = convert_to_hf.tracked({"benchmarks": {"sav": dict(sec=recipe_dict(recipe))}})
    export(model, tmp_path / "folder", track=said)
    loaded, own = sec_from_folder(tmp_path / "folder")
    assert own.describe() == recipe.describe()
    for key, value in model.heads["concept"].state_dict().items():
        torch.testing.assert_close(loaded.heads["concept"].state_dict()[key], value)
    clip = video(5, changes=(2, 4))
    first, second = (
        list(one.predictor(of).logits(clip, [prompt()]))
        for one, of in ((recipe, model), (own, loaded))
    )
    for (_, a), (_, b) in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert (
        sec_from_folder(tmp_path / "folder", threshold=None)[1].predictor(loaded).guidance is None
    )
    file = tmp_path / "folder" / "config.json"
    file.write_text(file.read_text().replace('"thickness"', '"thick"'))
    with pytest.raises(ValueError, match="folder: track: 'thickness'"):
        sec_from_folder(tmp_path / "folder")
    said = convert_to_hf.tracked({"benchmarks": {"plain": {}}})
    export(model, tmp_path / "silent", track=said)
    assert sec_from_folder(tmp_path / "silent")[1].inputs.first() == (QUESTIONS[0], ANSWERS[0])


def recipe_dict(recipe):
    """As in a config."""
    return dict(type=SecInference, inputs=recipe.inputs, **recipe.settings())


def test_a_folder_without_a_concept_head_is_refused(tmp_path):
    write_release(tmp_path / "sa2va", "sa2va")
    with pytest.raises(ValueError, match="no grounding_encoder.token_attn.*: it is no SeC"):
        SecSpec(checkpoint=str(tmp_path / "sa2va")).check()
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        SecSpec(checkpoint=str(tmp_path / "none")).check()
    with pytest.raises(ValueError, match="leave --size out"):
        SecSpec(checkpoint="x", size="tiny")


def test_a_config_says_how_it_tracks(tmp_path):
    _, inputs = parts.concept_model(tmp_path)
    benchmark = dict(sec=dict(type=SecInference, inputs=inputs, threshold=0.5))
    recipe = recipe_of({"benchmarks": {"plain": {}, "sav": benchmark}}, "x.py")
    assert recipe.threshold == 0.5 and recipe.inputs is inputs
    with pytest.raises(ValueError, match="x.py: no benchmark says how to track with guidance"):
        recipe_of({"benchmarks": {"plain": {}}}, "x.py")
    benchmark["sec"]["treshold"] = 0.4
    with pytest.raises(ValueError, match="sec.treshold: .*did you mean 'threshold'"):
        recipe_of({"benchmarks": {"sav": benchmark}}, "x.py")


def test_the_command_tracks_a_data_set(released, tmp_path, monkeypatch, capsys):
    folder, _ = released
    clip = video(4, changes=(2,))
    write_davis(tmp_path, clip)
    command = ["--sec", "--checkpoint", folder, "--image-size", SIDE, "--precision", "fp32"]
    places = ["--video-root", tmp_path / "images", "--annotation-root", tmp_path / "masks"]
    command += [*places, "--output-root", tmp_path / "out", "--workers", 1]
    vos_inference.main([str(word) for word in command])
    record = json.loads((tmp_path / "out" / "inference.json").read_text())
    assert record["scene_threshold"] == 0.35 and record["concept_weights"] and record["weights"]
    jpegs = PaletteSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")
    model, recipe = sec_from_folder(folder, image_size=SIDE)
    predictor = recipe.predictor(model)
    predictor.resize, predictor.non_overlapping = "meta", True
    expected = dict(predictor.propagate(jpegs[0].folder, [prompt(1), prompt(2, top=40)]))
    for frame, masks in expected.items():
        ids = read_palette_png(tmp_path / "out" / "first" / f"{frame:05d}.png")
        np.testing.assert_array_equal(ids == 1, masks[0])
        np.testing.assert_array_equal(ids == 2, masks[1])
    other = [str(word) for word in [*command, "--scene-threshold", 0.6]]
    with pytest.raises(ValueError, match="made otherwise .*scene_threshold 0.35, now 0.6"):
        vos_inference.main(other)
    shut = [*command[:-4], "--output-root", tmp_path / "shut", "--workers", 1]
    monkeypatch.setattr(command_line, "sec_from_folder", None)  # no language model is made
    vos_inference.main([str(word) for word in [*shut, "--scene-threshold", "off"]])
    record = json.loads((tmp_path / "shut" / "inference.json").read_text())
    assert "scene_threshold" not in record and record["reliable_memory"]
    predictor = gate_shut(folder, image_size=SIDE)
    for frame, masks in predictor.propagate(jpegs[0].folder, [prompt(1)]):
        ids = read_palette_png(tmp_path / "shut" / "first" / f"{frame:05d}.png")
        assert not ((ids == 1) & ~masks[0]).any()  # the second object took some of its pixels
    monkeypatch.setattr(sys, "argv", ["x"])
    plainly = [str(word) for word in command if word != "--sec"]
    with pytest.raises(ValueError, match="--scene-threshold is of --sec"):
        vos_inference.main([*plainly, "--scene-threshold", "0.3"])


def test_scores_with_the_gate_shut_are_those_of_sam2(tmp_path):
    model, inputs = parts.concept_model(tmp_path / "words")
    write_davis(tmp_path, video(5, changes=(2,)))
    source = PaletteSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")
    settings = dict(inputs=inputs, reliable_memory=False, resize="training")
    records = {}
    for name, threshold in (("shut", None), ("open", 0.35)):
        sec = SecInference(threshold=threshold, **settings)
        benchmark = ConceptVosBenchmark(source=source, sec=sec)
        records[name] = benchmark.predict(model, 0)
        assert repr(threshold) in benchmark.fingerprint()
    assert records["shut"] == VosBenchmark(source=source).predict(model, 0)
    assert records["open"] != records["shut"]


def test_another_head_has_no_concept_to_follow(tmp_path):
    model, inputs = parts.concept_model(tmp_path)
    del model.heads["concept"]
    model.heads["other"] = seg_projector(hidden=2, out=2)
    with pytest.raises(ValueError, match="no concept head 'concept' .it has other."):
        SecInference(inputs=inputs).predictor(model)
