"""SAM 2 from one form to another: nothing lost, loads elsewhere, tracks the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Sam2VideoModel, Sam2VideoProcessor

from projects.common.checkpoint import read_state
from projects.common.engine.checkpoints import frozen_fingerprints, names_to_save, save_weights
from projects.common.freezing import set_trainable
from projects.common.video import FrameFolder
from projects.sam2_video.conversion import convert
from projects.sam2_video.losses import MultiStepMaskLoss
from projects.sam2_video.modeling import Sam2, build_sam2, sam2_config
from projects.sam2_video.modeling.meta_weights import load_meta_state
from projects.sam2_video.predictor import ObjectPrompt, VideoPredictor
from projects.sam2_video.pretrained import pretrained_sam2
from projects.sam2_video.prompting import PromptSimulator
from projects.sam2_video.toy import toy_sam2
from projects.sam2_video.train_model import Sam2VideoTraining, TrainingUnroll
from tests.sam2_video.meta_predictor import run_meta, write_clip
from tests.sam2_video.meta_reference import build_meta, randomise
from tools.convert_sam2 import main

SIDE = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("converted")
    yield path
    shutil.rmtree(path)  # checkpoints of 150 MB


@pytest.fixture(scope="module")
def meta_file(folder):
    path = folder / "sam2.1_hiera_tiny.pt"
    torch.save({"model": randomise(build_meta(image_size=SIDE)).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def transformers_folder(folder, meta_file):
    report = convert(meta_file, folder / "hf", to="transformers", image_size=SIDE)
    assert (report.form, report.matched, report.missing) == ("meta", 469, [])
    assert "the point code is held twice" in str(report)
    return folder / "hf"


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_the_circle_gives_back_every_bit(folder, meta_file, transformers_folder, capsys):
    ours, back = folder / "ours.safetensors", folder / "back.pt"
    assert main([str(transformers_folder), str(ours), "--to", "ours"]) == 0
    said = capsys.readouterr().out
    assert "(transformers)" in said and "469 matched, 0 from the start weights, 0 missing" in said
    assert "SAM 2.1 tiny, 7 memory slots" in said
    assert all(key.startswith("sam2.blocks.") for key in read_state(ours))
    report = convert(ours, back, to="meta")
    assert report.form == "ours" and report.unexpected == []
    assert same(read_state(meta_file), read_state(back))
    loaded = pretrained_sam2(size="tiny", checkpoint=ours, image_size=SIDE)
    assert same(loaded.blocks.state_dict(), read_state(transformers_folder))


def clip_of(folder: Path):
    clip = folder / "clip"
    if not clip.exists():
        write_clip(clip, frames=5, height=72, width=128)
    return clip


CLICK = ObjectPrompt(1, 0, points=np.array([[30.0, 20], [90, 60]]), labels=np.array([1, 0]))


def at_size_of(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(masks, (height, width), mode="bilinear", align_corners=False)


def test_it_tracks_the_same_in_metas_predictor(folder, meta_file, transformers_folder):
    from sam2.build_sam import build_sam2_video_predictor

    path = folder / "from_hf.pt"
    convert(transformers_folder, path, to="meta")
    predictor = build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        str(path),
        device="cpu",
        hydra_overrides_extra=[f"++model.image_size={SIDE}", "++model.fill_hole_area=0"],
    )
    theirs = run_meta(predictor, clip_of(folder), [CLICK])
    ours = VideoPredictor(
        pretrained_sam2(size="tiny", checkpoint=transformers_folder, image_size=SIDE), resize="meta"
    )
    mine = dict(ours.logits(FrameFolder(clip_of(folder)), [CLICK]))
    assert mine.keys() == theirs.keys() == set(range(5))
    for frame, logits in theirs.items():
        torch.testing.assert_close(at_size_of(mine[frame], 72, 128), logits, rtol=0, atol=1e-3)
    path.unlink()


@torch.no_grad()
def test_it_tracks_the_same_in_transformers(folder, transformers_folder):
    model, report = Sam2VideoModel.from_pretrained(transformers_folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    model.eval()
    processor = Sam2VideoProcessor.from_pretrained(transformers_folder)
    assert processor.target_size == SIDE
    video = FrameFolder(clip_of(folder))
    frames = [video[frame] for frame in range(5)]
    session = processor.init_video_session(video=frames, dtype=torch.float32)
    assert session.processed_frames[0].shape[-2:] == (SIDE, SIDE)
    processor.add_inputs_to_inference_session(
        session,
        frame_idx=0,
        obj_ids=1,
        input_points=[[CLICK.points.tolist()]],
        input_labels=[[CLICK.labels.tolist()]],
    )
    model(session, frame_idx=0)
    theirs = {out.frame_idx: out.pred_masks for out in model.propagate_in_video_iterator(session)}
    ours = pretrained_sam2(size="tiny", checkpoint=transformers_folder, image_size=SIDE)
    mine = dict(VideoPredictor(ours).logits(video, [CLICK]))
    assert theirs.keys() == mine.keys() == set(range(5))
    for frame, logits in theirs.items():
        torch.testing.assert_close(mine[frame], logits.reshape(mine[frame].shape), rtol=0, atol=0.1)
        agree = (mine[frame] > 0) == (logits.reshape(mine[frame].shape) > 0)
        assert agree.float().mean() > 0.999


def training_of(sam2: Sam2, trainable: list[str]) -> Sam2VideoTraining:
    unroll = TrainingUnroll(simulator=PromptSimulator(), loss=MultiStepMaskLoss())
    model = Sam2VideoTraining(sam2=sam2, unroll=unroll)
    set_trainable(model, trainable)
    return model


def test_trained_parts_come_together_with_their_start(folder, meta_file, capsys):
    sam2 = build_sam2(sam2_config("tiny", image_size=SIDE))
    load_meta_state(sam2, read_state(meta_file), where="start")
    model = training_of(sam2, ["sam2.blocks.mask_decoder"])
    with torch.no_grad():
        sam2.blocks.mask_decoder.iou_token.weight.add_(1)
    part, out = folder / "part.safetensors", folder / "merged.pt"
    state = model.state_dict()
    save_weights(
        {name: state[name] for name in names_to_save(model)}, part, frozen_fingerprints(model)
    )

    assert main([str(part), str(out), "--to", "meta"]) == 1
    said = capsys.readouterr().err
    assert "trained a part of the model" in said and "--start" in said and not out.exists()

    assert main([str(part), str(out), "--to", "meta", "--start", str(meta_file)]) == 0
    assert "from the start weights, 0 missing" in capsys.readouterr().out
    start, merged = read_state(meta_file), read_state(out)
    tuned = "sam_mask_decoder.iou_token.weight"
    assert torch.equal(merged[tuned], start[tuned] + 1)
    assert same(
        {k: v for k, v in merged.items() if k != tuned},
        {k: v for k, v in start.items() if k != tuned},
    )

    other = folder / "other.pt"
    torch.save({"model": randomise(build_meta(image_size=SIDE), seed=1).state_dict()}, other)
    out.unlink()
    assert main([str(part), str(out), "--to", "meta", "--start", str(other)]) == 1
    assert "other frozen parameters" in capsys.readouterr().err and not out.exists()
    other.unlink()


@pytest.mark.parametrize(("version", "slots"), [("2.0", 7), ("2.1", 22)])
def test_versions_and_memory_slots(folder, version, slots):
    source, middle, back = folder / "v.pt", folder / "v_hf", folder / "v_back.pt"
    meta = build_meta(image_size=SIDE, version=version, num_maskmem=slots)
    torch.save({"model": meta.state_dict()}, source)
    report = convert(source, middle, to="transformers", force=True)
    assert report.model == f"SAM {version} tiny, {slots} memory slots"
    model, said = Sam2VideoModel.from_pretrained(middle, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    assert model.config.num_maskmem == slots
    assert model.config.enable_occlusion_spatial_embedding == (version == "2.1")
    assert model.config.image_size == 1024
    convert(middle, back, to="meta", force=True)
    assert same(read_state(source), read_state(back))


def test_what_is_there_stays_unless_forced(folder, meta_file, transformers_folder, capsys):
    kept = folder / "kept.safetensors"
    kept.write_bytes(b"precious")
    assert main([str(meta_file), str(kept), "--to", "ours"]) == 1
    assert "--force" in capsys.readouterr().err and kept.read_bytes() == b"precious"
    assert main([str(meta_file), str(kept), "--to", "ours", "--force"]) == 0
    assert "sam2.blocks.no_memory_embedding" in read_state(kept)
    kept.unlink()
    precious = folder / "precious"
    precious.mkdir()
    for options in ([], ["--force"]):  # a folder of something else is never replaced
        assert main([str(meta_file), str(precious), "--to", "transformers", *options]) == 1
    assert main([str(meta_file), str(folder / "x.bin"), "--to", "meta"]) == 1
    assert "is named .pt or .pth" in capsys.readouterr().err
    before = (transformers_folder / "model.safetensors").stat().st_mtime_ns
    assert main([str(meta_file), str(transformers_folder), "--to", "transformers"]) == 1
    assert (transformers_folder / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), None), (-float("inf"), torch.bfloat16)]
)
def test_weights_of_a_run_that_diverged(tmp_path, capsys, value, dtype):
    state = toy_sam2(seed=3).blocks.state_dict()
    state["mask_decoder.iou_token.weight"][0, -1] = value
    weights, out = tmp_path / "toy.safetensors", tmp_path / "hf"
    prefixed = {f"sam2.blocks.{key}": tensor.to(dtype) for key, tensor in state.items()}
    save_weights(prefixed, weights, {})
    call = [str(weights), str(out), "--to", "transformers"]
    call += ["--config", "projects/sam2_video/configs/toy.py"]
    assert main(call) == 1
    said = capsys.readouterr().err
    assert f"1 of {len(state)} tensors hold NaN or infinity: mask_decoder.iou_token.weight" in said
    assert "--force" in said and str(weights) in said and not out.exists()
    assert main([*call, "--force"]) == 0
    assert "note: 1 of" in capsys.readouterr().out
    written = read_state(out)["mask_decoder.iou_token.weight"]
    assert not written.isfinite().all() and written.isfinite().sum() == written.numel() - 1


@pytest.mark.parametrize("to", ["meta", "transformers", "ours"])
def test_nothing_half_written_stays(folder, transformers_folder, tmp_path, monkeypatch, to):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr("projects.sam2_video.conversion.save_safetensors", fail)
    out = tmp_path / "out" / {"meta": "a.pt", "transformers": "a", "ours": "a.safetensors"}[to]
    with pytest.raises(OSError, match="disk full"):
        convert(transformers_folder, out, to=to)
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_other_files_are_refused(tmp_path, capsys):
    torch.save({"model": {"layer.weight": torch.ones(2)}}, tmp_path / "resnet.pt")
    assert main([str(tmp_path / "resnet.pt"), str(tmp_path / "o.pt"), "--to", "meta"]) == 1
    assert "not a SAM 2 checkpoint" in capsys.readouterr().err
    assert main([str(tmp_path / "gone.pt"), str(tmp_path / "o.pt"), "--to", "meta"]) == 1
    assert "no SAM 2 checkpoint at" in capsys.readouterr().err


def test_a_model_of_no_released_size_goes_through_its_config(tmp_path, capsys):
    model = training_of(toy_sam2(seed=3), ["*"])
    state = model.state_dict()
    weights = tmp_path / "toy.safetensors"
    save_weights({name: state[name] for name in names_to_save(model)}, weights, {})
    config = ["--config", "projects/sam2_video/configs/toy.py"]
    out = tmp_path / "hf"
    assert main([str(weights), str(out), "--to", "transformers"]) == 1
    assert "none of the released sizes" in capsys.readouterr().err
    assert main([str(weights), str(out), "--to", "transformers", *config]) == 0
    loaded, said = Sam2VideoModel.from_pretrained(out, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    trained = model.sam2.blocks.mask_decoder.state_dict()
    assert same(trained, loaded.mask_decoder.state_dict())
    assert main([str(weights), str(tmp_path / "o.pt"), "--to", "meta", *config]) == 1
    assert "none of Meta's sizes" in capsys.readouterr().err
    again = tmp_path / "again.safetensors"
    assert main([str(out), str(again), "--to", "ours"]) == 0
