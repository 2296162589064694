"""The command on the toy world's SA-V: inference and scores, and scores alone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.common.engine.checkpoints import frozen_fingerprints, names_to_save, save_weights
from projects.common.masks import read_binary_png, write_palette_png
from projects.sam2_video.evaluation import inference
from projects.sam2_video.modeling import build_sam2, sam2_config, to_meta_state
from projects.sam2_video.train_model import Sam2VideoTraining
from projects.sav_finetune.evaluate_sav import main
from projects.toy_world.generate import generate
from projects.toy_world.world import World
from tools.bench.vos_scores import plain_folder_scores

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "projects" / "sam2_video" / "configs" / "toy.py"


@pytest.fixture(scope="module")
def sav(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world") / "toy"
    generate(World(seed=3, sizes={"sav_val": 2}), root)
    return root / "SA-V"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, random_toy) -> Path:
    """A weights file as a toy training leaves it."""
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    model = Sam2VideoTraining(sam2=random_toy, unroll=None)
    state = model.state_dict()
    weights = {name: state[name].contiguous() for name in names_to_save(model)}
    save_weights(weights, path, frozen_fingerprints(model))
    return path


@pytest.fixture(scope="module")
def random_toy():
    from projects.sam2_video.toy import toy_sam2

    model = toy_sam2(seed=0)
    with torch.no_grad():
        model.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
    return model


def evaluate(sav, out, *more, model=()):
    val = sav / "sav_val"
    options = {
        "--video-root": val / "JPEGImages_24fps",
        "--annotation-root": val / "Annotations_6fps",
        "--video-list": sav / "sav_val.txt",
        "--output-root": out,
        "--num-processes": 1,
    }
    words = [word for pair in options.items() for word in pair] + [*model, *more]
    scores = main([str(word) for word in words])
    inference._predictor.cache_clear()
    inference._source.cache_clear()
    return scores


@pytest.fixture(scope="module")
def predicted(sav, checkpoint, tmp_path_factory) -> Path:
    """Masks of the toy checkpoint, scored."""
    out = tmp_path_factory.mktemp("out")
    evaluate(sav, out, "--strict", model=("--checkpoint", checkpoint, "--model-cfg", CONFIG))
    return out


def test_masks_in_savs_layout_and_their_scores(sav, predicted):
    truth = sav / "sav_val" / "Annotations_6fps"
    expected = {path.relative_to(truth) for path in truth.rglob("*.png")}
    assert {path.relative_to(predicted) for path in predicted.rglob("*.png")} == expected
    plain = plain_folder_scores(truth, predicted)
    content = json.loads((predicted / "metrics.json").read_text())
    region, boundary = np.mean(list(plain.values()), axis=0)
    assert content["J"] == pytest.approx(region, abs=1e-9)
    assert content["F"] == pytest.approx(boundary, abs=1e-9)
    assert content["J&F"] == pytest.approx((region + boundary) / 2, abs=1e-9)
    assert content["J"] > 0.01 and not content["missing_files"]
    assert content["settings"]["inference"]["resize"] == "training"
    rows = list(csv.reader((predicted / "results.csv").open()))
    found = {(row[0].strip(), row[1]): float(row[3]) for row in rows[2:]}
    assert found == {key: round(100 * plain[key][0], 1) for key in plain}


def test_scores_alone_with_gaps_and_all_frames(sav, predicted, tmp_path, caplog):
    out = tmp_path / "copy"
    shutil.copytree(predicted, out)
    video = sorted(path for path in out.iterdir() if path.is_dir())[0]
    lost = sorted((video / "000").iterdir())[2]
    before = evaluate(sav, out, "--skip-inference", "--metrics-json", tmp_path / "before.json")
    lost.unlink()
    after = evaluate(sav, out, "--skip-inference")
    assert after.missing_files == [str(lost)] and "1 mask files are missing" in caplog.text
    assert before.objects.keys() == after.objects.keys() and (tmp_path / "before.json").is_file()
    with pytest.raises(FileNotFoundError, match="000/00008.png: no prediction"):
        evaluate(sav, out, "--skip-inference", "--strict")
    shutil.copy(sorted((video / "000").iterdir())[0], lost)
    every = evaluate(sav, out, "--skip-inference", "--do-not-skip-first-last")
    key = (video.name, "000")
    assert every.objects[key].frames == before.objects[key].frames + 2


def test_palette_annotations_have_the_scores_of_folders_per_object(sav, predicted, tmp_path):
    """The same masks joined into palette PNGs, on both sides."""
    truth = sav / "sav_val" / "Annotations_6fps"
    for source, target in ((truth, tmp_path / "t"), (predicted, tmp_path / "p")):
        for video in (path for path in source.iterdir() if path.is_dir()):
            _join(video, target / video.name, truth / video.name)
    options = ["--skip-inference", "--num-processes", "1"]
    roots = ["--annotation-root", tmp_path / "t", "--output-root", tmp_path / "p"]
    joined = main([str(word) for word in options + roots])
    plain = plain_folder_scores(tmp_path / "t", tmp_path / "p")
    assert {key: score[:2] for key, score in joined.objects.items()} == {
        key: pytest.approx(value, abs=1e-9) for key, value in plain.items()
    }


def _join(video, target, truth):
    """Object n of SA-V is index n + 1; where two overlap the first stays."""
    target.mkdir(parents=True)
    folders = sorted(path for path in truth.iterdir())
    for frame in sorted(folders[0].iterdir()):
        ids = None
        for number, folder in reversed(list(enumerate(folders))):
            mask = read_binary_png(video / folder.name / frame.name)
            ids = np.zeros(mask.shape, np.uint8) if ids is None else ids
            ids[mask] = number + 1
        write_palette_png(target / frame.name, ids)


def test_metas_checkpoint_needs_no_config(sav, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "start.pt"
    torch.save({"model": to_meta_state(build_sam2(sam2_config("tiny", image_size=64)))}, path)
    names = (sav / "sav_val.txt").read_text().split()
    (tmp_path / "one.txt").write_text(names[0])
    more = ("--video-list", tmp_path / "one.txt", "--use-all-masks", "--strict")
    model = ("--checkpoint", path, "--image-size", 64)
    scores = evaluate(sav, tmp_path / "out", *more, model=model)
    assert scores.videos == names[:1]
    # every annotated mask was given, and given masks come back
    assert scores.summary()["J"] > 0.5
    record = json.loads((tmp_path / "out" / "inference.json").read_text())
    assert (record["resize"], record["use_all_masks"]) == ("meta", True)


def test_mistakes_are_named(sav, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--checkpoint is needed, or --skip-inference"):
        evaluate(sav, tmp_path)
    with pytest.raises(FileNotFoundError, match="no SAM 2 checkpoint at x.pt"):
        evaluate(sav, tmp_path, model=("--checkpoint", "x.pt"))
    with pytest.raises(FileNotFoundError, match="checkpoint nowhere does not exist"):
        evaluate(sav, tmp_path, model=("--checkpoint", "nowhere", "--model-cfg", CONFIG))
    with pytest.raises(FileNotFoundError, match="holds none of the 2 annotated videos"):
        evaluate(sav, tmp_path, "--skip-inference")
    with pytest.raises(FileNotFoundError, match="scene list"):
        evaluate(sav, tmp_path, "--skip-inference", "--scene-list", tmp_path / "none.txt")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--skip-inference"):
        evaluate(sav, tmp_path)
