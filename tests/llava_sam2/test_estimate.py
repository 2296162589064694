"""Estimates of memory against real steps of the same models, at the level of the allocator."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from projects.common.engine.config import load_config, plain
from projects.common.engine.memory import Run
from projects.common.engine.model import build_model
from projects.llava_sam2.estimate import Estimate, make_batch, with_pixels, without_files
from projects.llava_sam2.hf.placeholder import byte_tokenizer
from projects.llava_sam2.largest import TalkShape, largest_shapes
from projects.llava_sam2.models.toy import toy_internvl
from tests.measured import measure_step

CONFIGS = Path("projects").resolve()
STAGE1 = CONFIGS / "sam2_video/configs/toy.py"
GROUNDED = CONFIGS / "llava_sam2/configs/toy.py"
LORA = dict(rank=4, alpha=8, targets=["self_attn.*_proj", "mlp.*_proj"])


def recomputing_toy(*, tokenizer, template, seed=0):
    mllm = toy_internvl(
        tokenizer=tokenizer, template=template, hidden=64, layers=3, vision_layers=1, seed=seed
    )
    mllm.model.activation_checkpointing_enable({"use_reentrant": False})
    return mllm


def small(path: Path, batch_size: int = 2, precision: str = "fp32"):
    """The toy configs with their clips and images, but fewer of them."""
    cfg = load_config(path)
    cfg.precision = precision
    cfg.train_dataloader["batch_size"] = batch_size
    for entry in cfg.train_dataloader["datasets"]:
        entry.pop("batch_size", None)
    return cfg


def compare(cfg) -> dict[str, tuple[float, float]]:
    """Estimated over measured: of what forward leaves, and of the peak."""
    estimate = Estimate(cfg, device="cpu")
    tree = plain(cfg)
    tree["model"] = without_files(tree["model"], "model")
    model = build_model(tree, 0).train()
    ratios = {}
    for shape in largest_shapes(tree["train_dataloader"]):
        batch = partial(make_batch, model, shape)
        forward, peak = measure_step(model, lambda batch=batch: with_pixels(batch()))
        held = estimate.steps[str(shape)]
        ratios[str(shape)] = (held.forward / forward, held.peak / peak)
    return ratios


def assert_close(ratios, *, batches: int) -> None:
    """Kernels' own scratch memory belongs to no tensor: the peak is allowed to differ by more."""
    assert len(ratios) >= batches
    wrong = {k: r for k, r in ratios.items() if abs(r[0] - 1) > 0.03 or abs(r[1] - 1) > 0.1}
    assert not wrong


def clips(precision: str = "fp32"):
    cfg = small(STAGE1, 1, precision)
    cfg.train_dataloader["datasets"] = cfg.train_dataloader["datasets"][-1:]
    return cfg


@pytest.mark.parametrize(
    ("recompute", "precision"), [(False, "bf16"), (True, "bf16"), (True, "fp32")]
)
def test_clips(recompute, precision):
    cfg = clips(precision)
    cfg.model["sam2"] = dict(type=recomputing_sam2, parts=recompute)
    assert_close(compare(cfg), batches=1)


def recomputing_sam2(*, parts):
    from projects.sam2_video.toy import toy_sam2

    sam2 = toy_sam2()
    sam2.set_checkpointing(parts)
    return sam2


def test_every_task_of_the_grounded_model():
    ratios = compare(small(GROUNDED))
    tasks = {"segment", "track", "category", "chat", "temporal"}
    assert {name.split(":")[0] for name in ratios} == tasks
    assert_close(ratios, batches=5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_parts_lora_checkpointing_and_chunks(precision):
    cfg = small(GROUNDED, 3, precision)
    cfg.model["mllm"] = dict(
        type=recomputing_toy, tokenizer=dict(type=byte_tokenizer), template="qwen_chat"
    )
    cfg.model["heads"]["segment"]["projector"]["hidden"] = 64
    cfg.model["heads"]["segment"].update(rows_per_chunk=2, frames_per_chunk=2, num_points=500)
    cfg.model["heads"] = {"segment": cfg.model["heads"]["segment"]}
    cfg.model.update(lora=LORA)
    cfg.model["trainable"] = ["heads", "grounding.blocks.mask_decoder", "mllm.model.lm_head"]
    cfg.train_dataloader["datasets"] = [
        entry for entry in cfg.train_dataloader["datasets"] if "expressions" in entry["dataset"]
    ][:1]
    # a CPU counts booleans by copying them to int64, with larger masks that would be the peak
    cfg.train_dataloader["datasets"][0]["dataset"]["mask_size"] = 64
    assert_close(compare(cfg), batches=1)


def test_recomputing_is_seen_on_cuda_too():
    plain = next(iter(Estimate(clips()).steps.values()))
    cfg = clips()
    cfg.model["sam2"] = dict(type=recomputing_sam2, parts=True)
    recomputed = next(iter(Estimate(cfg).steps.values()))
    assert recomputed.forward < 0.3 * plain.forward
    assert recomputed.peak < 0.5 * plain.peak
    with pytest.raises(ValueError, match="no device 'tpu'"):
        Estimate(cfg, device="tpu")


def test_a_released_size_is_estimated_from_its_name_alone():
    estimate = Estimate(load_config(CONFIGS / "llava_sam2/configs/sec_4b.py"), tokens=2600)
    needed = estimate.needs(Run(8, 2))
    assert 3.7e9 < needed.parameters < 4.2e9
    assert needed.trainable > 2 * 151_000 * 2048  # embeddings and lm_head among them
    # bfloat16 of what is frozen, float32 of what trains
    weights = 4 * needed.trainable + 2 * (needed.parameters - needed.trainable)
    assert weights < needed.stays["weights, buffers"] < 1.2 * weights
    assert list(estimate.steps) == ["concept: 8 x 48 words, 8 tiles, 1 masks on 1 frames"]
    text = estimate.report(Run(8, 2))
    assert "fits on 24 GB: no, try" in text and "concept: 8 x 48 words" in text
    assert "host, per process" in estimate.report(Run(8, 3, "all"))


def test_shapes_come_from_the_config():
    loader = plain(load_config(CONFIGS / "llava_sam2/configs/sa2va_4b_shared.py"))
    shapes = {shape.task: shape for shape in largest_shapes(loader["train_dataloader"])}
    assert shapes["segment"] == TalkShape("segment", 2, 240, 6, 6, 5, 256)
    assert shapes["box"] == TalkShape("box", 2, 48 + 6 * 20, 6)
    assert shapes["temporal"].features == 100 and shapes["temporal"].tiles == 0
    loader = plain(load_config(CONFIGS / "llava_sam2/configs/sa2va_4b.py"))["train_dataloader"]
    chats = [shape for shape in largest_shapes(loader) if shape.task == "chat"]
    assert {(c.tiles, c.words) for c in chats} == {(13, 8192 - 13 * 256), (5, 8192 - 5 * 256)}
    short = [shape for shape in largest_shapes(loader, tokens=4000) if shape.task == "chat"]
    assert {(c.tiles, c.words) for c in short} == {(13, 4000 - 13 * 256), (5, 4000 - 5 * 256)}
    tree = plain(load_config(CONFIGS / "llava_sam2/configs/sa2va_qwen3_vl_4b.py"))
    native = largest_shapes(tree["train_dataloader"])  # frames of 512 tokens of 32 pixels a side
    assert {s.tiles for s in native if s.task == "segment" and s.frames > 1} == {5 * 3}
    assert without_files(tree["model"], "model")["mllm"]["size"] == "Qwen3-VL-4B"


def test_mistakes_are_told_before_anything_is_built(tmp_path):
    tree = plain(load_config(CONFIGS / "llava_sam2/configs/sa2va_4b.py"))
    with pytest.raises(ValueError, match="leave no room for words in 3000"):
        largest_shapes(tree["train_dataloader"], tokens=3000)
    tree["model"]["mllm"]["path"] = "weights/InternVL2_5-7B"
    with pytest.raises(ValueError, match="model.mllm.path: .*7B holds no weights"):
        without_files(tree["model"], "model")
    tree["train_dataloader"]["datasets"][0]["dataset"]["type"] = torch.nn.Linear
    with pytest.raises(ValueError, match=r"datasets\[0\]: how large are samples of"):
        largest_shapes(tree["train_dataloader"])
