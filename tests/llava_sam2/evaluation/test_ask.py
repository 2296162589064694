"""The question behind ``tools/predict.py``: what is drawn, and what is refused before any work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from projects.common.conversation import load_tokenizer
from projects.common.engine import checkpoints
from projects.common.engine.config import load_config, plain
from projects.common.engine.runner import build_model
from projects.common.masks import write_binary_png
from projects.common.video import open_video, read_image
from projects.common.visualise import legible_scale, overlay
from projects.llava_sam2.datasets.frame_samplers import UniformFrames
from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.pixels import SingleTile
from projects.llava_sam2.datasets.templates import Templates
from projects.llava_sam2.evaluation.ask import ask_file, asker, check_paths, read_regions
from projects.llava_sam2.evaluation.refer_image import ReferImageBenchmark
from projects.llava_sam2.evaluation.responders import AskModel, Trivial
from projects.llava_sam2.predictor import Answer
from tests.engine.processes import CONFIG
from tests.llava_sam2.datasets.tiny import LEFT, save_jpeg, write_tokenizer
from tests.llava_sam2.evaluation.tiny_model import Script, toy_model
from tools import predict

TEMPLATES = Templates(questions=["segment {expression} ."], answers=["sure it is [SEG] ."])


@pytest.fixture
def clip(tmp_path):
    for number in range(4):
        save_jpeg(tmp_path / "clip" / f"{number:05d}.jpg", number)
    return tmp_path / "clip"


def test_an_image_and_a_video_are_drawn(tmp_path, clip):
    model, inputs = toy_model(tmp_path / "tokenizer")
    ask = AskModel(inputs=inputs, templates=TEMPLATES, frames=UniformFrames(num=2))
    Script(model, "sure it is [SEG] .")
    out = tmp_path / "out.png"
    answer = ask_file(model, ask, clip / "00001.jpg", "red square", out)
    image = np.asarray(Image.open(clip / "00001.jpg"))
    expected = overlay(image, answer.decoded(), scale=legible_scale(image))
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected)
    assert not np.array_equal(expected, overlay(image, answer.decoded() & False, scale=8))

    Script(model, "sure it is [SEG] .")
    answer = ask_file(model, ask, clip, "red square", tmp_path / "strip.png")
    assert answer.decoded().shape == (4, 20, 32)
    height, width, _ = np.asarray(Image.open(tmp_path / "strip.png")).shape
    assert width > 4 * 32 * height / 20 * 0.95  # four frames beside one another

    Script(model, "sure it is .")
    answer = ask_file(model, ask, clip, "red square", tmp_path / "film.mp4", fps=5)
    assert (answer.text, answer.masks) == ("sure it is .", [])
    assert len(open_video(tmp_path / "film.mp4")) == 4


def test_regions_are_asked_about_as_the_question_stands(tmp_path, clip):
    model, inputs = toy_model(tmp_path / "tokenizer")
    ask = AskModel(inputs=inputs, templates=TEMPLATES)
    source, out, question = (
        clip / "00001.jpg",
        tmp_path / "out.png",
        "what is <region> , <region> ?",
    )
    write_binary_png(tmp_path / "mask.png", LEFT)
    given = [("mask", str(tmp_path / "mask.png")), ("box", "3,2,30,18")]
    regions = read_regions(given, source, question)
    (masks,) = ask.predictor(model).regions(read_image(source), [question], [regions])
    prompts = []
    prompt = inputs.prompt
    inputs.prompt = lambda text, **rest: (
        prompts.append((text, rest["regions"])) or prompt(text, **rest)
    )
    Script(model, "red dog")
    answer = ask_file(model, ask, source, question, out, regions=regions)
    ((text, cells),) = prompts
    pixels = inputs.pixel_values(read_image(source)[None], video=False)
    expected = inputs.regions(masks, pixels, size=LEFT.shape, name="x")
    assert (text, answer.text) == (question, "red dog") and torch.equal(cells, expected)
    image = np.asarray(Image.open(source))
    shown = overlay(image, masks, scale=legible_scale(image))  # nothing else to be shown
    np.testing.assert_array_equal(np.asarray(Image.open(out)), shown)
    assert masks.shape == (2, *LEFT.shape) and (masks[0] == LEFT).all()


@pytest.mark.parametrize(
    ("given", "question", "message"),
    [
        (
            [("box", "1,2,3,4")] * 2,
            "what is <region> ?",
            "1 <region> in .* but 2 regions are given",
        ),
        ([("box", "1,2,x,4")], "what ?", "region '1,2,x,4': expected numbers with commas"),
        ([("box", "1,2,99,4")], "what ?", "region 1,2,99,4: box .* on an image of 32 x 20"),
        ([("click", "1,2,3")], "what ?", "region 1,2,3: .*a click x, y"),
        ([("mask", "nowhere.png")], "what ?", "nowhere.png: no such mask"),
    ],
)
def test_wrong_regions_are_refused_first(clip, given, question, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_regions(given, clip / "00000.jpg", question)
    with pytest.raises(ValueError, match="regions are of an image"):
        read_regions(given, clip, question)


def test_wrong_paths_are_refused_first(tmp_path, clip):
    with pytest.raises(FileNotFoundError, match="nowhere.jpg: no such"):
        check_paths(tmp_path / "nowhere.jpg", tmp_path / "o.png")
    with pytest.raises(FileNotFoundError, match="missing: no such folder to write o.png to"):
        check_paths(clip, tmp_path / "missing" / "o.png")
    with pytest.raises(ValueError, match=r"o\.mp4: an answer about .* is written as \.jpg"):
        check_paths(clip / "00000.jpg", tmp_path / "o.mp4")
    check_paths(clip, tmp_path / "o.mp4")


def test_the_model_is_seeded_as_in_training(tmp_path, clip, monkeypatch):
    """What is frozen and drawn at random is not in the checkpoint; it has to be drawn again."""
    tree = plain(load_config(CONFIG))
    trained = build_model(tree, seed=tree["seed"])
    frozen = checkpoints.frozen_fingerprints(trained)
    names = checkpoints.names_to_save(trained)
    weights = {name: trained.state_dict()[name] + 1 for name in names}
    checkpoints.save_weights(weights, tmp_path / "model.safetensors", frozen)
    asked = []

    def ask_instead(model, *rest, **options):
        asked.append(model)
        return Answer("nothing")

    monkeypatch.setattr(predict, "asker", lambda tree: None)
    monkeypatch.setattr(predict, "ask_file", ask_instead)
    out = ["--out", str(tmp_path / "o.png")]
    command = ["predict", CONFIG, str(tmp_path), str(clip), "dog", *out]
    monkeypatch.setattr("sys.argv", command)
    torch.manual_seed(99)
    predict.main()
    (model,) = asked
    assert torch.equal(model.frozen.weight, trained.frozen.weight)
    assert torch.equal(model.head.weight, trained.head.weight + 1) and not model.training


def test_the_config_says_how_to_ask(tmp_path):
    tokenizer = dict(type=load_tokenizer, path=str(write_tokenizer(tmp_path / "t")))
    trivial = dict(type=ReferImageBenchmark, respond=dict(type=Trivial, kind="random"))
    respond = dict(
        type=AskModel,
        inputs=dict(type=lambda tokenizer: tokenizer, tokenizer=tokenizer),
        templates=dict(type=Templates, questions=["find {expression}"]),
    )
    asks = dict(type=ReferImageBenchmark, respond=respond)
    found = asker({"benchmarks": {"a": trivial, "b": asks}})
    assert found.templates.first("dog")[0] == "find dog"
    with pytest.raises(ValueError, match="none of the config's benchmarks asks the model"):
        asker({"benchmarks": {"a": trivial}})
    inputs = dict(
        type=GroundingInputs,
        tokenizer=tokenizer,
        template="qwen_chat",
        tiles=dict(type=SingleTile, size=32),
        tokens_per_tile=4,
        grounding_size=96,
    )
    dataset = dict(type="of no benchmark", inputs=inputs)
    trained = {"train_dataloader": {"datasets": [{"dataset": dict(inputs=respond["inputs"])}]}}
    trained["train_dataloader"]["datasets"].append({"dataset": dataset})
    with pytest.raises(ValueError, match="none of its datasets has inputs and templates"):
        asker(trained)
    dataset["templates"] = respond["templates"]
    found = asker(trained)
    assert found.templates.first("dog")[0] == "find dog"
    assert found.settings["inputs"].grounding_size == 96
