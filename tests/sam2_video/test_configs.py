"""Every config reads, names nothing but missing files, survives a dump, and builds its model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from projects.common import registry
from projects.common.engine.check import check_config, where_to_get
from projects.common.engine.config import load_config, plain
from projects.common.registry import ConfigError
from projects.sam2_video.losses import Step
from projects.sam2_video.modeling import MaskCandidates
from projects.sam2_video.optim import LayerDecayGroups
from projects.sam2_video.train_model import Sam2VideoTraining
from projects.toy_world.generate import generate
from projects.toy_world.world import World
from tests.engine.processes import train

CONFIGS = Path(__file__).parents[2] / "projects" / "sam2_video" / "configs"
TOY, SEC = "toy", "sec_sam2.1_hiera_l_finetune_maskmem22"
SIZES = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}
RECIPES = ("MOSE_finetune", "sav_finetune", "image_and_video")
LEAVES = [*(f"sam2.1_hiera_{size}_{recipe}" for size in SIZES for recipe in RECIPES), SEC]
PARAMETERS = {"t": 38_962_498, "s": 46_060_354, "b+": 80_850_178, "l": 224_446_642}
NEVER_READ = 256  # no_memory_positional_encoding, which Meta's model has too
BLOCKS = {"t": 12, "s": 16, "b+": 24, "l": 48}


def load(name: str) -> Config:
    return load_config(CONFIGS / f"{name}.py")


def without_weights(tree: dict[str, Any]) -> dict[str, Any]:
    """The model's part, to be built without a file and without memory for its weights."""
    model = {**tree["model"], "sam2": {**tree["model"]["sam2"], "checkpoint": None}}
    return model


def build_on_meta(tree: dict[str, Any]) -> Sam2VideoTraining:
    with torch.device("meta"):
        return registry.build(without_weights(tree))


def test_no_config_is_left_out():
    found = {path.stem for path in CONFIGS.glob("*.py")} - {"__init__"}
    assert found == {TOY, *LEAVES}


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_are_short(name):
    assert len((CONFIGS / f"{name}.py").read_text().splitlines()) < 40


@pytest.mark.parametrize("name", [TOY, *LEAVES])
def test_nothing_but_files_may_be_missing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        check_config(plain(load(name)))
    lines = str(raised.value).split("\n  ")[1:]
    assert lines and all(line.endswith("does not exist") for line in lines), lines
    weights = [line for line in lines if "pretrained_models/" in line]
    assert len(weights) == (name != TOY)
    assert "bash run.sh data" in where_to_get(raised.value)
    assert all(f"{tmp_path}/nowhere" in line for line in lines if line not in weights)


@pytest.mark.parametrize("name", LEAVES[:3])
def test_a_best_score_that_no_benchmark_gives_is_a_mistake(name, tmp_path, monkeypatch):
    """Else it would show at the first validation, after hours."""
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "nowhere"))
    tree = plain(load(name))
    benchmark = tree["validation"]["best"].split("/")[0]
    for best, right in (("J", True), ("J&F", True), ("J&F[late]", True), ("JF", False)):
        tree["validation"]["best"] = f"{benchmark}/{best}"
        with pytest.raises(ConfigError) as raised:
            check_config(tree)
        words = f"'{benchmark}/JF' is no score of this benchmark, which gives {benchmark}/J&F"
        assert (words in str(raised.value)) != right


# other sizes differ from base+ in two strings; writing a dump takes seconds
@pytest.mark.parametrize("name", [*(f"sam2.1_hiera_b+_{recipe}" for recipe in RECIPES), SEC])
def test_the_dump_reloads_as_it_was(name, tmp_path):
    cfg = load(name)
    cfg.dump(str(tmp_path / "dumped.py"))
    again = plain(load_config(tmp_path / "dumped.py"))
    resolved = registry.resolve
    original = plain(cfg)
    assert again.keys() == original.keys()

    def same(first: Any, second: Any) -> bool:
        if isinstance(first, dict):
            return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
        if isinstance(first, list):
            return len(first) == len(second) and all(map(same, first, second))
        return first == second or (callable(first) and resolved(first) is resolved(second))

    assert same(original, again)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_build_with_all_their_parameters(size):
    models = [build_on_meta(plain(load(f"sam2.1_hiera_{size}_{recipe}"))) for recipe in RECIPES[:1]]
    for model in models:
        counts = [p.numel() for p in model.parameters()]
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert (sum(counts), sum(counts) - trained) == (PARAMETERS[size], NEVER_READ)
    trees = [plain(load(f"sam2.1_hiera_{size}_{recipe}")) for recipe in RECIPES]
    assert all(tree["model"] == trees[0]["model"] for tree in trees)
    sam2 = trees[0]["model"]["sam2"]
    assert sam2["size"] == SIZES[size]
    assert sam2["checkpoint"] == f"pretrained_models/sam2.1_hiera_{SIZES[size]}.pt"


def test_sec_trains_the_memory_and_nothing_else():
    model = build_on_meta(plain(load(SEC)))
    attention = sum(p.numel() for p in model.sam2.blocks.memory_attention.parameters())
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS["l"] + 15 * 64
    assert sum(trained.values()) == attention + 22 * 64
    assert model.sam2.num_maskmem == 22
    model.train()
    assert model.sam2.blocks.memory_attention.training
    for part in ("vision_encoder", "mask_decoder", "prompt_encoder", "memory_encoder"):
        assert not any(m.training for m in getattr(model.sam2.blocks, part).modules()), part
    tree = plain(load(SEC))
    (entry,) = tree["train_dataloader"]["datasets"]
    sampler = registry.build(entry["dataset"]["sampler"])
    assert (sampler.num_frames, sampler.stride, sampler.max_objects) == (30, 2, 2)
    assert tree["train_dataloader"]["batch_size"] == 4
    assert model.unroll.encode_split == 32 and model.unroll.simulator.tracked_frames == 8


@pytest.mark.parametrize("size", SIZES)
def test_rates_of_the_recipe(size):
    """Rates re-derived from Meta's rule: 0.9 to the number of layers above."""
    tree = plain(load(f"sam2.1_hiera_{size}_MOSE_finetune"))
    model = build_on_meta(tree)
    wrapper = tree["optim_wrapper"]
    assert wrapper["constructor"] is LayerDecayGroups and wrapper["clip_grad"]["max_norm"] == 0.1
    config = {"type": OptimWrapper, "optimizer": wrapper["optimizer"]}
    optimizer = LayerDecayGroups(config, wrapper["paramwise_cfg"])(model).optimizer
    names = {id(p): name for name, p in model.named_parameters()}
    rates, decays = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["lr"]
            decays[names[id(parameter)]] = group["weight_decay"]
    trunk, last = "sam2.blocks.vision_encoder.backbone", BLOCKS[size] - 1
    expected = {
        "sam2.blocks.mask_decoder.iou_token.weight": 5e-6,
        "sam2.blocks.memory_temporal_positional_encoding": 5e-6,
        "sam2.blocks.vision_encoder.neck.convs.0.weight": 3e-6,
        f"{trunk}.pos_embed": 3e-6,
        f"{trunk}.pos_embed_window": 3e-6,
        f"{trunk}.blocks.{last}.attn.qkv.weight": 3e-6 * 0.9,
        f"{trunk}.blocks.0.attn.qkv.weight": 3e-6 * 0.9 ** (last + 1),
        f"{trunk}.patch_embed.projection.weight": 3e-6 * 0.9 ** (last + 2),
    }
    for name, rate in expected.items():
        assert rates[name] == pytest.approx(rate, rel=1e-9), name
    norms = {
        f"{prefix}.{name}"
        for prefix, part in model.named_modules()
        if isinstance(part, nn.LayerNorm)
        for name, _ in part.named_parameters()
    }
    for name, decay in decays.items():
        plain_kind = name.endswith("bias") or name in norms
        assert decay == (0.0 if plain_kind else 0.1), name
    assert len(rates) == sum(p.requires_grad for p in model.parameters())


def test_the_recipe_in_figures():
    tree = plain(load("sam2.1_hiera_b+_MOSE_finetune"))
    assert tree["train_cfg"]["max_epochs"] == 40 and tree["precision"] == "bf16"
    (schedule,) = tree["param_scheduler"]
    assert schedule["eta_min_ratio"] == 0.1 and (schedule["begin"], schedule["end"]) == (0, 1.0)
    (entry,) = tree["train_dataloader"]["datasets"]
    dataset = entry["dataset"]
    sampler = registry.build(dataset["sampler"])
    assert (sampler.num_frames, sampler.max_objects, sampler.stride) == (8, 3, 1)
    assert tree["train_dataloader"]["batch_size"] == 1
    model = tree["model"]
    assert (model["sam2"]["image_size"], model["sam2"]["drop_path"]) == (1024, 0.1)
    simulator = registry.build(model["unroll"]["simulator"])
    assert (simulator.point_prob, simulator.box_prob, simulator.gt_click_prob) == (0.5, 0.5, 0.1)
    assert simulator.max_conditioning_frames == simulator.max_correction_frames == 2
    assert simulator.num_correction_clicks == 7
    held_out = tree["benchmarks"]["mose_val"]["source"]["list_file"]
    assert dataset["source"]["exclude_file"] == held_out
    assert tree["validation"]["best"] == "mose_val/J&F"
    images, sav, mose = plain(load("sam2.1_hiera_b+_image_and_video"))["train_dataloader"][
        "datasets"
    ]
    assert images["dataset"]["task"] == "image" and images["batch_size"] == 4
    assert mose["dataset"] == dataset and sav["dataset"]["transforms"] == dataset["transforms"]


FLIP, AFFINE, GREY = ("HorizontalFlip", 0.5), ("RandomAffine", 25, 20), ("RandomGrayscale", 0.05)
SQUARE = ("ResizeSquare", 1024)


def in_figures(transform: Any) -> tuple:
    """Name and numbers of a built transform."""
    name, is_per_frame = type(transform).__name__, getattr(transform, "per_frame", False)
    numbers = {
        "HorizontalFlip": lambda: (transform.probability,),
        "RandomGrayscale": lambda: (transform.probability,),
        "RandomAffine": lambda: (transform.degrees, transform.shear),
        "ResizeSquare": lambda: (transform.size,),
        "ColorJitter": lambda: tuple(strength for _, _, strength in transform.strengths),
    }
    return (name, *numbers[name](), *(["per frame"] if is_per_frame else []))


@pytest.mark.parametrize("name", LEAVES)
def test_every_leaf_has_the_figures_of_the_recipe(name):
    """Stated here once more, by hand: what the reference runs use."""
    tree = plain(load(name))
    optimizer = dict(tree["optim_wrapper"]["optimizer"])
    assert optimizer.pop("type").__name__ == "AdamW"
    assert optimizer == dict(lr=5e-6, betas=(0.9, 0.999), weight_decay=0.1)
    assert tree["optim_wrapper"]["clip_grad"] == dict(max_norm=0.1)
    assert tree["optim_wrapper"]["paramwise_cfg"] == dict(layer_decay=0.9, encoder_lr_mult=0.6)
    assert (tree["precision"], tree["train_cfg"]["max_epochs"]) == (
        "bf16",
        4 if "image_and_video" in name else 40,
    )
    loss = dict(tree["model"]["unroll"]["loss"])
    del loss["type"]
    assert loss == dict(
        mask_weight=20, dice_weight=1, iou_weight=1, class_weight=1,
        focal_alpha=0.25, focal_gamma=2, class_alpha=None, class_gamma=0,
    )  # fmt: skip
    clips = {"SavSource": (8, 3, 1), "PaletteSource": (8, 3, 1), "Sa1bSource": (1, 3, 1)}
    for entry in tree["train_dataloader"]["datasets"]:
        dataset = entry["dataset"]
        sampler = registry.build(dataset["sampler"])
        taken = (sampler.num_frames, sampler.max_objects, sampler.stride)
        source = dataset["source"]["type"].__name__
        assert taken == ((30, 2, 2) if name == SEC else clips[source])
        transforms = [in_figures(registry.build(t)) for t in dataset["transforms"]]
        assert transforms == [
            FLIP,
            AFFINE,
            SQUARE,
            ("ColorJitter", 0.1, 0.03, 0.03, 0),
            GREY,
            ("ColorJitter", 0.1, 0.05, 0.05, 0, "per frame"),
        ]


@pytest.mark.parametrize(
    ("gigabytes", "checkpointing", "split", "chunk"),
    [("80", False, None, None), ("40", True, None, None), ("16", True, 4, None), ("8", True, 1, 1)],
)
def test_memory_presets(gigabytes, checkpointing, split, chunk, monkeypatch):
    monkeypatch.setenv("GPU_MEMORY", gigabytes)
    model = build_on_meta(plain(load("sam2.1_hiera_t_sav_finetune")))
    assert bool(model.sam2.checkpointing) == model.unroll.checkpoint_clicks == checkpointing
    assert (model.unroll.encode_split, model.unroll.object_chunk) == (split, chunk)


def test_the_losses_weights_reach_the_loss():
    """One row, one candidate: what the configured loss gives, from its definition."""
    model = plain(load("sam2.1_hiera_b+_MOSE_finetune"))["model"]
    loss = registry.build(model["unroll"]["loss"])
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0]).view(1, 1, 2, 2)
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    score = torch.tensor([[0.3]])
    candidates = MaskCandidates(
        masks=logits,
        pointer_logits=logits,
        iou=torch.tensor([[0.9]]),
        tokens=torch.zeros(1, 1, 4),
        object_logits=score,
    )
    got = loss([Step(0, candidates)], target.bool())
    p = logits.sigmoid()
    right = torch.where(target > 0, p, 1 - p)
    alpha = torch.where(target > 0, 0.25, 0.75)
    focal = (-alpha * (1 - right) ** 2 * right.log()).mean()
    dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    iou = 1 / 3  # prediction {0, 2}, truth {0, 1}
    assert got["loss_mask"] == pytest.approx(20 * float(focal), rel=1e-5)
    assert got["loss_dice"] == pytest.approx(float(dice), rel=1e-5)
    assert got["loss_iou"] == pytest.approx(abs(0.9 - iou), rel=1e-5)
    assert got["loss_class"] == pytest.approx(float(-score.sigmoid().log()), rel=1e-5)


def test_a_shrunken_recipe_trains(tmp_path, monkeypatch):
    """tools/train.py on the MOSE config: tiny, 128 pixels, random weights, toy videos."""
    sizes = {"davis_train": 1, "davis_val": 1}
    generate(World(seed=0, sizes=sizes, davis_frames=3), tmp_path / "toy")
    mose = tmp_path / "MOSE" / "train"
    mose.parent.mkdir()
    os.symlink(tmp_path / "toy" / "DAVIS", mose)
    held_out = (mose / "ImageSets" / "val.txt").read_text()
    (mose.parent / "MOSE_sample_val_list.txt").write_text(held_out)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    shrunk = (
        "model.sam2.checkpoint=None",
        "model.trainable=[sam2.blocks.mask_decoder,sam2.blocks.memory_attention]",
        "model.sam2.image_size=128",
        "model.unroll.simulator.num_correction_clicks=1",
        "train_dataloader.datasets.0.dataset.sampler.num_frames=2",
        "train_dataloader.datasets.0.dataset.sampler.max_objects=1",
        "train_dataloader.datasets.0.dataset.transforms.2.size=128",
        "train_dataloader.num_workers=0",
        "train_cfg.max_epochs=1",  # one video, twice
        "validation.max_items=1",
        "log.interval=1",
    )
    config = str(CONFIGS / "sam2.1_hiera_t_MOSE_finetune.py")
    ran = train(tmp_path / "run", options=shrunk, config=config)
    assert ran.exit_codes == [0], ran.output
    steps = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"step": 2' in steps and "mose_val/J&F" in steps
    assert "sam2.1_hiera_t_MOSE_finetune.py" in {p.name for p in (tmp_path / "run").iterdir()}
