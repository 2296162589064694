"""Masks of data sets in files: layouts, late objects, shards, interruptions."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from projects.common.masks import (
    read_binary_png,
    read_palette,
    read_palette_png,
    write_binary_png,
    write_palette_png,
)
from projects.common.video import write_jpeg, write_mp4
from projects.sam2_video.data.png import PaletteSource, PerObjectSource
from projects.sam2_video.evaluation import inference
from projects.sam2_video.evaluation.archive import zip_predictions
from projects.sam2_video.evaluation.folders import score_folders
from projects.sam2_video.evaluation.inference import (
    VosSettings,
    claim_output,
    segment_video,
    shard,
)
from projects.sam2_video.evaluation.launch import Share, launched_share, worker_devices
from projects.sam2_video.evaluation.vos import VosBenchmark
from projects.sam2_video.modeling import to_meta_state
from projects.sam2_video.predictor import VideoPredictor
from tools.vos_inference import main

SIZE = (48, 64)
FRAMES = 7  # annotated: 0, 2, 4, 6
PALETTE = [0, 0, 0, 10, 200, 30, 40, 50, 250]


def truth_of(key, frame):
    """Object 1 moves right; object 2 appears on frame 4."""
    mask = np.zeros(SIZE, bool)
    if key == 1:
        mask[4:20, 4 + 2 * frame : 24 + 2 * frame] = True
    elif frame >= 4:
        mask[28:44, 30:50] = True
    return mask


def write_video(root, name, *, per_object=False, mp4=False, seed=0):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 60, (*SIZE, 3), dtype=np.uint8) for _ in range(FRAMES)]
    for frame, image in enumerate(images):
        image[truth_of(1, frame)] = (250, 60, 60)
        image[truth_of(2, frame)] = (60, 60, 250)
    (root / "images" / name).mkdir(parents=True)
    if mp4:
        (root / "images" / name).rmdir()
        write_mp4(root / "images" / f"{name}.mp4", images, 24)
    else:
        for frame, image in enumerate(images):
            write_jpeg(root / "images" / name / f"{frame:05d}.jpg", image)
    for frame in range(0, FRAMES, 2):
        if per_object:
            for key in (1, 2):
                folder = root / "masks" / name / f"{key:03d}"
                folder.mkdir(parents=True, exist_ok=True)
                write_binary_png(folder / f"{frame:05d}.png", truth_of(key, frame))
        else:
            (root / "masks" / name).mkdir(parents=True, exist_ok=True)
            ids = truth_of(1, frame) + 2 * truth_of(2, frame).astype(np.uint8)
            write_palette_png(root / "masks" / name / f"{frame:05d}.png", ids, PALETTE)


def palette_video(root, **options):
    write_video(root, "a", **options)
    return PaletteSource(image_root=root / "images", annotation_root=root / "masks")[0]


class Oracle:
    """Tracks the truth; notes what it was given."""

    def object_ids(self, prompts):
        return list(dict.fromkeys(prompt.object_id for prompt in prompts))

    def propagate(self, video, prompts):
        self.prompts = [(prompt.object_id, prompt.frame) for prompt in prompts]
        keys = self.object_ids(prompts)
        firsts = {k: min(f for key, f in self.prompts if key == k) for k in keys}
        for frame in range(min(firsts.values()), len(video)):
            masks = [truth_of(key, frame) & (frame >= firsts[key]) for key in keys]
            yield frame, np.stack(masks)


# ---- one video ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mp4", [False, True])
def test_palette_masks_of_all_frames(tmp_path, mp4):
    video, model = palette_video(tmp_path, mp4=mp4), Oracle()
    segment_video(model, video, tmp_path / "out" / "a", VosSettings(per_object_output=False))
    assert model.prompts == [(1, 0), (2, 4)]  # each object where it first shows
    files = sorted((tmp_path / "out" / "a").iterdir())
    assert [file.name for file in files] == [f"{frame:05d}.png" for frame in range(FRAMES)]
    for frame, file in enumerate(files):
        expected = truth_of(1, frame) + 2 * truth_of(2, frame).astype(np.uint8)
        assert np.array_equal(read_palette_png(file), expected)
        assert read_palette(file)[: len(PALETTE)] == PALETTE  # that of the input
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_per_object_masks_of_annotated_frames(tmp_path):
    write_video(tmp_path, "a", per_object=True)
    video = PerObjectSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")[0]
    settings = VosSettings(per_object_output=True, annotated_only=True)
    segment_video(Oracle(), video, tmp_path / "out" / "a", settings)
    for key in (1, 2):
        files = sorted((tmp_path / "out" / "a" / f"{key:03d}").iterdir())
        assert [file.stem for file in files] == ["00000", "00002", "00004", "00006"]
        for file in files:
            assert np.array_equal(read_binary_png(file), truth_of(key, int(file.stem)))
    scores = score_folders(tmp_path / "masks", tmp_path / "out", strict=True, workers=1)
    assert scores.summary() == {"J&F": 1, "J": 1, "F": 1}


def test_all_masks_as_prompts_and_objects_of_the_first_frame(tmp_path):
    video, model = palette_video(tmp_path), Oracle()
    settings = VosSettings(per_object_output=False, use_all_masks=True)
    segment_video(model, video, tmp_path / "all" / "a", settings)
    assert model.prompts == [(1, 0), (1, 2), (1, 4), (1, 6), (2, 4), (2, 6)]
    settings = VosSettings(per_object_output=False, late_objects=False)
    segment_video(model, video, tmp_path / "first" / "a", settings)
    assert model.prompts == [(1, 0)]
    ids = [read_palette_png(file) for file in sorted((tmp_path / "first" / "a").iterdir())]
    assert {int(key) for key in np.unique(ids)} == {0, 1}


def test_a_video_that_nothing_shows_at_first(tmp_path):
    """The frames before the earliest mask are there, and empty."""
    video = palette_video(tmp_path)
    for frame in (0, 2):
        path = tmp_path / "masks" / "a" / f"{frame:05d}.png"
        write_palette_png(path, 2 * truth_of(2, frame).astype(np.uint8))
    video = PaletteSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")[0]
    segment_video(Oracle(), video, tmp_path / "out" / "a", VosSettings(per_object_output=False))
    ids = [read_palette_png(file) for file in sorted((tmp_path / "out" / "a").iterdir())]
    assert len(ids) == FRAMES and [bool(frame.any()) for frame in ids] == [False] * 4 + [True] * 3


def test_objects_without_a_place_are_named(tmp_path):
    video = palette_video(tmp_path)
    write_video(tmp_path / "many", "b", per_object=True)
    (tmp_path / "many" / "masks" / "b" / "002").rename(tmp_path / "many" / "masks" / "b" / "300")
    source = PerObjectSource(
        image_root=tmp_path / "many" / "images", annotation_root=tmp_path / "many" / "masks"
    )
    with pytest.raises(ValueError, match="object 300 has no place in a palette"):
        segment_video(Oracle(), source[0], tmp_path / "out", VosSettings(per_object_output=False))
    for frame in range(0, FRAMES, 2):
        write_palette_png(tmp_path / "masks" / "a" / f"{frame:05d}.png", np.zeros(SIZE, np.uint8))
    video = PaletteSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")[0]
    with pytest.raises(ValueError, match="images/a: no mask shows an object"):
        segment_video(Oracle(), video, tmp_path / "out", VosSettings(per_object_output=False))
    assert not (tmp_path / "out").exists()


def test_masks_of_another_size_than_the_frames(tmp_path):
    video = palette_video(tmp_path)
    small = np.ones((24, 32), np.uint8)
    write_palette_png(tmp_path / "masks" / "a" / "00000.png", small)
    video = PaletteSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")[0]
    with pytest.raises(ValueError, match=r"frame 00000 is \(24, 32\), the frames are \(48, 64\)"):
        segment_video(Oracle(), video, tmp_path / "out", VosSettings(per_object_output=False))


def test_overlapping_objects_go_to_the_higher_logit(tmp_path, random_sam2):
    """Palette masks are parted by the network, not by the order of the ids."""
    video = palette_video(tmp_path)
    for frame in range(0, FRAMES, 2):
        ids = truth_of(1, frame) + 2 * np.roll(truth_of(1, frame), 6, 1).astype(np.uint8)
        path = tmp_path / "masks" / "a" / f"{frame:05d}.png"
        write_palette_png(path, np.minimum(ids, 2))
    video = PaletteSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")[0]
    free = VideoPredictor(random_sam2)
    segment_video(free, video, tmp_path / "free" / "a", VosSettings(per_object_output=True))
    parted = VideoPredictor(random_sam2, non_overlapping=True)
    segment_video(parted, video, tmp_path / "parted" / "a", VosSettings(per_object_output=False))
    shared = 0
    for frame in range(FRAMES):
        one, two = (
            read_binary_png(tmp_path / "free" / "a" / f"{key:03d}" / f"{frame:05d}.png")
            for key in (1, 2)
        )
        ids = read_palette_png(tmp_path / "parted" / "a" / f"{frame:05d}.png")
        shared += np.count_nonzero(one & two)
        assert np.array_equal(ids > 0, one | two)
        assert np.all(one[ids == 1]) and np.all(two[ids == 2])
    assert shared


def test_the_benchmark_and_the_folders_have_equal_scores(tmp_path, random_sam2):
    """In the training loop or from files: one scorer, one number."""
    for name in ("a", "b"):
        write_video(tmp_path, name, per_object=True, seed=ord(name))
    source = PerObjectSource(image_root=tmp_path / "images", annotation_root=tmp_path / "masks")

    class Model:
        def video_predictor(self):
            return VideoPredictor(random_sam2)

    for skip in (True, False):
        benchmark = VosBenchmark(source=source, skip_first_and_last=skip)
        records = [record for index in range(2) for record in benchmark.predict(Model(), index)]
        for index in range(2):
            segment_video(
                VideoPredictor(random_sam2),
                source[index],
                tmp_path / f"out{skip}" / source.names[index],
                VosSettings(per_object_output=True),
            )
        scores = score_folders(
            tmp_path / "masks", tmp_path / f"out{skip}", skip_first_and_last=skip, workers=1
        )
        assert scores.summary() == pytest.approx(benchmark.summarise(records), abs=1e-12)
        assert [(r["J"], r["F"]) for r in records] == [s[:2] for s in scores.objects.values()]
        assert 0.02 < scores.summary()["J"] < 0.98


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A SAM 2.1 tiny as Meta writes it; at 64 pixels it is quick."""
    from projects.sam2_video.modeling import build_sam2, sam2_config

    torch.manual_seed(0)
    model = build_sam2(sam2_config("tiny", image_size=64))
    with torch.no_grad():
        model.blocks.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
    path = tmp_path_factory.mktemp("weights") / "start.pt"
    torch.save({"model": to_meta_state(model)}, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("a", "b", "c")):
        write_video(root, name, seed=number)
    return root


def run_command(data, weights, out, *more):
    options = {
        "--checkpoint": weights,
        "--image-size": 64,
        "--video-root": data / "images",
        "--annotation-root": data / "masks",
        "--output-root": out,
    }
    main([str(word) for pair in options.items() for word in pair] + [str(word) for word in more])
    inference._predictor.cache_clear()
    inference._source.cache_clear()
    return out


@pytest.fixture(scope="module")
def whole(data, weights):
    """All masks, by one process."""
    return pngs(run_command(data, weights, data / "whole"))


@pytest.fixture
def command(tmp_path, data, weights):
    def run(out, *more):
        return run_command(data, weights, tmp_path / out, *more)

    return run


def pngs(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


def test_shards_give_what_one_run_gives(command, whole, tmp_path, monkeypatch):
    assert len(whole) == 3 * FRAMES
    command("parts", "--shard", "1/2")
    assert {path.name for path in (tmp_path / "parts").iterdir() if path.is_dir()} == {"a", "c"}
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    parts = command("parts", "--zip", tmp_path / "all.zip", "--zip-folder", "Annotations")
    assert pngs(parts) == whole
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert set(archive.namelist()) == {f"Annotations/{name}" for name in whole}
        assert archive.read("Annotations/b/00003.png") == whole["b/00003.png"]


def test_worker_processes_give_what_one_gives(command, whole):
    assert pngs(command("workers", "--workers", "2")) == whole


def test_a_run_that_was_killed_goes_on(command, whole, tmp_path, monkeypatch):
    real = VideoPredictor.propagate
    seen = []

    def dies(self, video, prompts):
        seen.append(video.path.name)
        for frame, masks in real(self, video, prompts):
            if len(seen) == 2 and frame == 3:
                raise KeyboardInterrupt
            yield frame, masks

    monkeypatch.setattr(VideoPredictor, "propagate", dies)
    with pytest.raises(KeyboardInterrupt):
        command("out")
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"a", ".b.partial", ".b.lock", "inference.json"}
    assert command("out") and seen == ["a", "b", "b", "c"]  # what is done is not done again
    assert pngs(tmp_path / "out") == whole
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "b", "c", "inference.json"}


def test_two_processes_never_write_one_video(command, whole, tmp_path, monkeypatch):
    """The second one comes while the first one writes b, and again when b has just been written."""
    real = VideoPredictor.propagate

    def meanwhile(self, video, prompts):
        monkeypatch.setattr(VideoPredictor, "propagate", real)
        with pytest.raises(ValueError, match="another process is writing .*/b: .*--shard"):
            command("out", "--shard", "2/3")
        yield from real(self, video, prompts)

    monkeypatch.setattr(VideoPredictor, "propagate", meanwhile)
    command("out", "--shard", "2/3")
    monkeypatch.setattr(inference, "_segment_locked", None)  # nobody writes b again
    inference.segment_video(None, None, tmp_path / "out" / "b", None)
    monkeypatch.undo()
    assert pngs(command("out")) == whole
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "b", "c", "inference.json"}


def test_weights_that_diverged_are_refused(command, weights, tmp_path):
    state = torch.load(weights, weights_only=True)["model"]
    state["memory_encoder.out_proj.bias"][3] = float("nan")
    torch.save({"model": state}, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match=r"1 tensors hold NaN .*memory_encoder.projection.bias"):
        command("out", "--checkpoint", tmp_path / "nan.pt")
    assert not list((tmp_path / "out").iterdir())


def test_masks_of_two_models_do_not_mix(command, tmp_path):
    out = command("out", "--shard", "1/3")
    with pytest.raises(ValueError, match="made otherwise .use_all_masks False, now True"):
        command("out", "--shard", "2/3", "--use-all-masks")
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"a"}
    record = json.loads((out / "inference.json").read_text())
    claim_output(out, record)
    with pytest.raises(ValueError, match="weights"):
        claim_output(out, record | {"weights": "others"})
    with pytest.raises(ValueError, match="made otherwise"):  # though nothing is left to do
        command("out", "--shard", "1/3", "--use-all-masks")
    (out / "inference.json").unlink()
    with pytest.raises(ValueError, match="such as 'a' and no inference.json"):
        command("out", "--shard", "1/3")


def test_mistakes_are_found_before_anything_runs(command, tmp_path):
    with pytest.raises(FileNotFoundError, match="no SAM 2 checkpoint at nowhere.pt"):
        command("out", "--checkpoint", "nowhere.pt")
    with pytest.raises(FileNotFoundError, match="nothing.txt"):
        command("out", "--video-list", "nothing.txt")
    with pytest.raises(ValueError, match="meta.yaml is no config of this project"):
        command("out", "--model-cfg", "meta.yaml")
    with pytest.raises(ValueError, match="shard '3/2'"):
        command("out", "--shard", "3/2")
    assert not (tmp_path / "out").exists()


def test_all_bad_annotations_are_told_before_the_first_video(weights, tmp_path):
    for number, name in enumerate("abcd"):
        write_video(tmp_path, name, seed=number)
    masks = tmp_path / "masks"
    write_palette_png(masks / "b" / "00004.png", np.ones((24, 32), np.uint8))
    (masks / "c" / "00000.png").write_bytes((masks / "a" / "00000.png").read_bytes()[:60])
    Image.new("RGB", SIZE[::-1]).save(masks / "d" / "00000.png")
    with pytest.raises(ValueError) as raised:
        run_command(tmp_path, weights, tmp_path / "out")
    told = str(raised.value).splitlines()
    assert told[0] == "the annotations of 3 of 4 videos cannot be given:"
    assert "masks/b/00004.png is (24, 32), the frames of" in told[1]
    assert "masks/c/00000.png" in told[2] and "masks/d/00000.png" in told[3]
    assert not (tmp_path / "out").exists()


def test_shares_and_devices(monkeypatch):
    assert shard("abcdefg", 1, 3) == ["b", "e"]
    assert launched_share(None) == Share(0, 1) and launched_share("2/3") == Share(1, 3)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_share("2/3") == Share(5, 12)  # nodes times ranks
    shares = [launched_share(f"{node}/3") for node in (1, 2, 3)]
    assert {share.number for share in shares} == {1, 5, 9}
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert launched_share(None) == Share(0, 1)  # a batch script, before srun
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert launched_share(None) == Share(3, 4)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert worker_devices(None) == ["cuda:0", "cuda:1"]
    assert worker_devices(3) == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert worker_devices(None) == ["cuda:1"]
    with pytest.raises(ValueError, match="leave --workers out"):
        worker_devices(2)


def test_zip_needs_every_video(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "a" / "0.png")
    with pytest.raises(FileNotFoundError, match="1 predicted videos missing"):
        zip_predictions(tmp_path, ["a", "b"], tmp_path / "z.zip")
    assert zip_predictions(tmp_path, ["a"], tmp_path / "z.zip") == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "z.zip"]
