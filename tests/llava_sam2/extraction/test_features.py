"""CLIP features of frames: against transformers' own call, resumed, and refused."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from projects.common.video import write_mp4
from projects.llava_sam2.datasets.feature_files import read_note
from projects.llava_sam2.extraction import features
from projects.llava_sam2.extraction.clip import open_clip_model, transformers_clip
from projects.llava_sam2.extraction.features import extract_features
from projects.llava_sam2.extraction.frames import find_folders, frame_files
from projects.sam2_video.data.extract import Extraction, extract_video
from tools import extract_clip_features as command

WIDTH, SIDE = 24, 28


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP of random weights in the released format, image and text."""
    torch.manual_seed(0)
    text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    vision = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config = CLIPConfig(
        text_config=text | dict(vocab_size=50, bos_token_id=0, eos_token_id=1),
        vision_config=vision | dict(image_size=SIDE, patch_size=14),
        projection_dim=WIDTH,
    )
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    size = dict(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(clip):
    return transformers_clip(str(clip))


def write_frames(folder, count, *, seed=0, height=40, width=56):
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for number in range(count):
        blocks = draw.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05d}.png")
    return folder


@pytest.fixture
def frames(tmp_path):
    for number, count in enumerate((7, 3, 4)):
        write_frames(tmp_path / "frames" / "abc"[number], count, seed=number)
    return tmp_path / "frames"


def run(frames, out, encoder, fps=10.0, **options):
    return extract_features(find_folders(frames), out, encoder=encoder, fps=fps, **options)


def load(path):
    return torch.load(path, weights_only=True)


def test_features_are_those_of_the_whole_model(frames, clip, encoder, tmp_path):
    done = run(frames, tmp_path / "out", encoder, batch_size=3)
    assert (done.videos, done.frames, done.kept, done.failures) == (3, 14, 0, [])
    model = CLIPModel.from_pretrained(clip).eval()
    processor = CLIPImageProcessor.from_pretrained(clip)
    for name, count in (("a", 7), ("b", 3), ("c", 4)):
        found = load(tmp_path / "out" / f"{name}.pt")
        assert found.shape == (count, WIDTH) and found.dtype == torch.float16
        for number in range(count):
            image = Image.open(frames / name / f"{number:05d}.png")
            pixels = processor(images=image, return_tensors="pt").pixel_values
            with torch.no_grad():
                embedded = model.get_image_features(pixel_values=pixels).pooler_output[0]
            expected = embedded / embedded.norm()
            torch.testing.assert_close(found[number].float(), expected, atol=4e-3, rtol=0)
    note = read_note(tmp_path / "out")
    assert (note.fps, note.width, note.frames) == (10.0, WIDTH, {"a": 7, "b": 3, "c": 4})


def test_neither_batches_nor_processes_nor_precision_matter(frames, clip, encoder, tmp_path):
    run(frames, tmp_path / "one", encoder, batch_size=1)
    run(frames, tmp_path / "two", encoder, batch_size=64, workers=2)
    halved = transformers_clip(str(clip), dtype=torch.bfloat16)
    run(frames, tmp_path / "three", halved)
    for name in "abc":
        one = load(tmp_path / "one" / f"{name}.pt").float()
        torch.testing.assert_close(load(tmp_path / "two" / f"{name}.pt").float(), one)
        other = load(tmp_path / "three" / f"{name}.pt").float()
        assert ((one * other).sum(1) > 0.999).all()
        torch.testing.assert_close(other.norm(dim=1), torch.ones(len(other)), atol=2e-3, rtol=0)


def test_a_vision_tower_alone_is_enough_and_other_models_are_refused(clip, encoder, tmp_path):
    whole = CLIPModel.from_pretrained(clip)
    config = CLIPVisionConfig(**whole.config.vision_config.to_dict() | {"projection_dim": WIDTH})
    alone = CLIPVisionModelWithProjection(config)
    alone.vision_model.load_state_dict(whole.vision_model.state_dict())
    alone.visual_projection.load_state_dict(whole.visual_projection.state_dict())
    folder = tmp_path / "vision"
    alone.save_pretrained(folder)
    CLIPImageProcessor.from_pretrained(clip).save_pretrained(folder)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    torch.testing.assert_close(
        transformers_clip(str(folder)).encode(pixels), encoder.encode(pixels)
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ValueError, match="a model of type 'bert'; expected clip or clip_vision"):
        transformers_clip(str(folder))


def test_weights_that_do_not_cover_the_tower_are_refused(clip, tmp_path):
    whole = CLIPModel.from_pretrained(clip)
    state = {k: v for k, v in whole.state_dict().items() if "layers.1.mlp" not in k}
    whole.save_pretrained(tmp_path / "cut", state_dict=state)
    CLIPImageProcessor.from_pretrained(clip).save_pretrained(tmp_path / "cut")
    with pytest.raises(ValueError, match=r"4 weights of the image tower are missing, e\.g\. vis"):
        transformers_clip(str(tmp_path / "cut"))


def test_a_run_goes_on_where_it_stopped(frames, encoder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    save = features._save

    def interrupted(tensor, path):
        if path.name == "b.pt":
            raise KeyboardInterrupt
        save(tensor, path)

    monkeypatch.setattr(features, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(frames, out, encoder)
    assert sorted(path.name for path in out.iterdir()) == ["a.pt", "features.json"]
    assert read_note(out).frames == {"a": 7}
    monkeypatch.setattr(features, "_save", save)
    before = (out / "a.pt").stat().st_mtime_ns
    read_note(out).__class__(10.0, encoder.name, WIDTH).write(out)  # killed before its note
    done = run(frames, out, encoder)
    assert (done.videos, done.frames, done.kept) == (2, 7, 1)
    assert (out / "a.pt").stat().st_mtime_ns == before
    assert read_note(out).frames == {"a": 7, "b": 3, "c": 4}


def test_other_settings_do_not_mix(frames, clip, encoder, tmp_path):
    out = tmp_path / "out"
    run(frames, out, encoder)
    with pytest.raises(ValueError, match="made at 10 frames a second .* asked for are 5 by"):
        run(frames, out, encoder, fps=5.0)
    torch.manual_seed(1)
    CLIPModel(CLIPModel.from_pretrained(clip).config).save_pretrained(tmp_path / clip.name)
    CLIPImageProcessor.from_pretrained(clip).save_pretrained(tmp_path / clip.name)
    with pytest.raises(ValueError, match="choose another folder"):  # same name, other weights
        run(frames, out, transformers_clip(str(tmp_path / clip.name)))
    (out / "features.json").unlink()
    with pytest.raises(ValueError, match="without a features.json"):
        run(frames, out, encoder)


def test_bad_videos_are_counted_and_the_rest_goes_on(frames, encoder, tmp_path):
    (frames / "a" / "00004.png").write_bytes(b"no picture")
    (frames / "empty").mkdir()
    write_frames(frames / "old", 2)
    out = tmp_path / "out"
    run(frames / "..", tmp_path / "ignored", encoder)  # frames is no video: counted, not raised
    done = run(frames, out, encoder, batch_size=3)
    assert sorted(path.name for path in out.iterdir()) == [
        "b.pt",
        "c.pt",
        "features.json",
        "old.pt",
    ]
    assert done.videos == 3 and len(done.failures) == 2
    assert "00004.png" in done.failures[1] and "empty: no frames" in done.failures[0]
    write_frames(frames / "more", 5)
    for number in (3, 4):
        (frames / "more" / f"{number:05d}.png").rename(frames / "old" / f"{number:05d}.png")
    failures = run(frames, out, encoder).failures
    assert any("old.pt has 2 features" in failure for failure in failures)


# ---- rates


def record(folder, **content):
    count = sum(path.suffix == ".png" for path in folder.iterdir())
    made = dict(every=1, fps=10.0, frames=count, video_fps=30.0) | content
    (folder / "extraction.json").write_text(json.dumps(made))
    return folder


@pytest.mark.parametrize(
    ("made", "fps", "expected"),
    [
        (dict(fps=10.0), 10.0, [0, 1, 2, 3, 4, 5, 6]),
        (dict(fps=10.0), 5.0, [0, 2, 4, 6]),
        (dict(fps=30.0), 10.0, [0, 3, 6]),
        # all frames of a video of 4 a second: at 10 a second they last 17.5 features
        (dict(video_fps=4.0), 10.0, [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 6]),
        (dict(video_fps=4.0), 2.0, [0, 2, 4, 6]),
        (dict(video_fps=None), 10.0, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_frames_at_a_rate(tmp_path, made, fps, expected):
    folder = record(write_frames(tmp_path / "a", 7), **made)
    assert [int(file.stem) for file in frame_files(folder, fps)] == expected


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (dict(fps=10.0), "frames at 10 a second cannot be read at 4"),
        (dict(fps=2.0), "frames at 2 a second cannot be read at 4"),
        (dict(fps=None, every=4), "every 4th frame"),
        (dict(frames=9), "7 of 9 frames are left"),
    ],
)
def test_rates_that_do_not_agree_are_refused(tmp_path, made, reason):
    folder = record(write_frames(tmp_path / "a", 7), **made)
    with pytest.raises(ValueError, match=reason):
        frame_files(folder, 4.0)
    (folder / "extraction.json").write_text("[]")
    with pytest.raises(ValueError, match="not a record of an extraction"):
        frame_files(folder, 4.0)


def test_a_video_keeps_its_time_whatever_its_rate(encoder, tmp_path):
    """Two seconds dark, one bright, filmed at 24 and at 5 frames a second."""
    for name, rate in (("fast", 24), ("slow", 5)):
        levels = [40] * (2 * rate) + [220] * rate
        (tmp_path / "videos").mkdir(exist_ok=True)
        video = (np.full((48, 64, 3), level, dtype=np.uint8) for level in levels)
        write_mp4(tmp_path / "videos" / f"{name}.mp4", video, rate)
        extract_video(
            tmp_path / "videos" / f"{name}.mp4", tmp_path / "frames", Extraction(fps=10.0)
        )
    run(tmp_path / "frames", tmp_path / "out", encoder)
    for name in ("fast", "slow"):
        found = load(tmp_path / "out" / f"{name}.pt").float()
        assert len(found) == 30
        likeness = found @ found[0]
        changed = (likeness < likeness[1] - 0.01).nonzero()[:, 0].tolist()
        assert changed in (list(range(20, 30)), list(range(19, 30))), name  # the nearest frame


# ---- open_clip, the command


def test_open_clip_where_it_is_installed(frames, tmp_path, monkeypatch):
    """Its three-part answer, the picture that its preprocessing takes, its image tower."""
    asked = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
            self.token_embedding = torch.nn.Embedding(4, 4)

    def create(name, pretrained):
        asked.append((name, pretrained))
        torch.manual_seed(0)
        return Model(), "training", preprocess

    def preprocess(image):
        assert isinstance(image, Image.Image) and image.mode == "RGB"
        return torch.from_numpy(np.array(image.resize((2, 2)))).permute(2, 0, 1).float() / 255

    stub = SimpleNamespace(create_model_and_transforms=create)
    monkeypatch.setitem(sys.modules, "open_clip", stub)
    encoder = open_clip_model("ViT-H-14", "laion2b_s32b_b79k")
    assert asked == [("ViT-H-14", "laion2b_s32b_b79k")]
    run(frames, tmp_path / "out", encoder)
    assert load(tmp_path / "out/a.pt").shape == (7, 5)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModuleNotFoundError, match="pip install open_clip_torch"):
        open_clip_model("ViT-H-14", "laion2b_s32b_b79k")


def test_command_line(frames, clip, tmp_path, monkeypatch, caplog):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["extract_clip_features.py", *map(str, arguments)])
        return command.main()

    common = ["--model", clip, "--workers", 0, "--device", "cpu"]
    assert call(frames, tmp_path / "out", *common) == 0
    (frames / "c" / "00001.png").write_bytes(b"")
    (tmp_path / "out" / "c.pt").unlink()
    with caplog.at_level("INFO"):
        assert call(frames, tmp_path / "out", *common) == 1
    assert "0 frames of 0 videos; 2 videos were there; 1 failed" in caplog.text
    assert "00001.png" in caplog.text
    with pytest.raises(SystemExit, match="no such folder"):
        call(tmp_path / "nothing", tmp_path / "out", *common)
    with pytest.raises(SystemExit, match="asked for are 3 by"):
        call(frames, tmp_path / "out", *common, "--fps", 3)
