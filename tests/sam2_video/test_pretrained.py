"""Weights in their three forms, into models that fit and models that do not."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from transformers import Sam2VideoModel

from pretrained_models.reshape import main as reshape_main
from projects.common import registry
from projects.common.checkpoint import read_state, save_safetensors
from projects.sam2_video.modeling import Sam2, build_sam2, sam2_config, to_meta_state
from projects.sam2_video.modeling.config import SIZES
from projects.sam2_video.pretrained import (
    TEMPORAL,
    WeightsKind,
    pretrained_sam2,
    weights_kind,
)
from tests.sam2_video.meta_reference import build_meta

SIDE = 128


def tiny(checkpoint, **options) -> Sam2:
    return pretrained_sam2(size="tiny", checkpoint=checkpoint, image_size=SIDE, **options)


def parameters(model: Sam2) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.blocks.state_dict().items()}


@pytest.fixture(scope="module")
def source() -> Sam2:
    """A model whose every tensor is unlike any start value."""
    torch.manual_seed(3)
    model = build_sam2(sam2_config("tiny", image_size=SIDE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    return model


@pytest.fixture(scope="module")
def meta_file(source, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": to_meta_state(source)}, path)
    return path


@pytest.fixture(scope="module")
def older_file(source, tmp_path_factory) -> Path:
    """The same without the additions of 2.1, as Meta's 2.0 code writes it."""
    state = to_meta_state(source)
    expected = set(build_meta(image_size=SIDE, version="2.0").state_dict())
    state = {key: value for key, value in state.items() if key in expected}
    path = tmp_path_factory.mktemp("weights") / "sam2_hiera_tiny.pt"
    torch.save({"model": state}, path)
    return path


def assert_equal(model: Sam2, source: Sam2, *, but: tuple[str, ...] = ()) -> None:
    expected = parameters(source)
    for name, value in parameters(model).items():
        assert name in but or torch.equal(value, expected[name]), name


def test_meta_file(meta_file, source, caplog):
    with caplog.at_level(logging.INFO):
        assert_equal(tiny(meta_file), source)
    assert "469 matched, 0 missing, 0 unexpected" in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("form", ["file", "folder", "work_dir"])
@pytest.mark.parametrize("prefix", ["sam2.", "grounding."])
def test_our_own_checkpoints(source, tmp_path, form, prefix):
    """The engine saves what trains and buffers: not the parameter that nothing ever reads."""
    state = {f"{prefix}blocks.{k}": v for k, v in parameters(source).items()}
    del state[f"{prefix}blocks.no_memory_positional_encoding"]
    if prefix == "grounding.":
        state["mllm.embed.weight"] = torch.ones(2)
    folder = tmp_path / "iter_20.pth"
    save_safetensors(state, folder / "model.safetensors")
    (folder / "state.json").write_text("{}")
    (tmp_path / "last_checkpoint").write_text("iter_20.pth")
    path = {"file": folder / "model.safetensors", "folder": folder, "work_dir": tmp_path}[form]
    assert_equal(tiny(path), source, but=("no_memory_positional_encoding",))


def test_transformers_folder_written_by_transformers(source, tmp_path):
    source.blocks.save_pretrained(tmp_path / "whole")
    assert_equal(tiny(tmp_path / "whole"), source)
    source.blocks.save_pretrained(tmp_path / "shards", max_shard_size="60MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert_equal(tiny(tmp_path / "shards"), source)


def test_the_weights_do_what_transformers_own_loading_makes_them_do(source, tmp_path):
    """The image encoder of the loaded model against ``from_pretrained`` of the same folder."""
    source.blocks.save_pretrained(tmp_path)
    theirs = Sam2VideoModel.from_pretrained(tmp_path).eval()
    ours = tiny(tmp_path).eval()
    image = torch.randint(0, 255, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pixels = (image / 255 - ours.mean) / ours.std
        expected = theirs.get_image_features(pixels).fpn_hidden_states[-1]  # [HW, 1, C]
        got = ours.encode_frames(image.float()).embed
    assert torch.allclose(got, expected.permute(1, 2, 0).view_as(got), atol=1e-5)


def test_2_0_file_in_a_2_0_model(older_file, source):
    model = tiny(older_file, version="2.0")
    assert model.blocks.occlusion_spatial_embedding_parameter is None
    assert_equal(model, source)


def test_2_0_file_in_a_2_1_model_starts_as_the_2_0_model_and_says_so(older_file, caplog):
    model = tiny(older_file)
    assert "SAM 2.0 checkpoint in a SAM 2.1 model" in caplog.text
    blocks = model.blocks
    assert not blocks.occlusion_spatial_embedding_parameter.any()
    older = tiny(older_file, version="2.0")
    offsets = [1, 3, -2]
    assert torch.equal(model._pointer_codes(offsets, 8), older._pointer_codes(offsets, 8))
    assert blocks.temporal_positional_encoding_projection_layer.weight.requires_grad


def test_2_1_file_in_a_2_0_model_is_refused(meta_file):
    with pytest.raises(ValueError, match=r"tiny\.pt is a SAM 2\.1 checkpoint.*version='2\.1'"):
        tiny(meta_file, version="2.0")


def test_another_number_of_slots_is_resampled_and_said(meta_file, source, caplog):
    model = tiny(meta_file, num_maskmem=22)
    assert "7 memory slots resampled to 22" in caplog.text
    table = parameters(source)[TEMPORAL][:, 0, 0]
    expected = torch.nn.functional.interpolate(
        table.T[None], 22, mode="linear", align_corners=True
    )[0].T
    got = parameters(model)[TEMPORAL]
    assert got.shape == (22, 1, 1, 64)
    assert torch.allclose(got[:, 0, 0], expected)
    assert torch.equal(got[0, 0, 0], table[0]) and torch.allclose(got[-1, 0, 0], table[-1])
    assert_equal(model, source, but=(TEMPORAL,))


def test_reshape_writes_what_loading_resamples(meta_file, source, tmp_path, caplog):
    output = tmp_path / "sam2.1_hiera_tiny_maskmem_22.pt"
    assert reshape_main(["--input", str(meta_file), "--output", str(output)]) == 0
    table = parameters(source)[TEMPORAL][:, 0, 0].T[None]
    expected = torch.nn.functional.interpolate(table, 22, mode="linear", align_corners=True)[0].T
    written = torch.load(output, weights_only=True)["model"]["maskmem_tpos_enc"]
    assert torch.allclose(written[:, 0, 0], expected)
    caplog.clear()
    assert torch.equal(parameters(tiny(output, num_maskmem=22))[TEMPORAL], written)
    assert "resampled" not in caplog.text


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_the_kind_of_every_release_is_recognised(size, version):
    with torch.device("meta"):
        blocks = build_sam2(sam2_config(size, version=version, num_maskmem=5)).blocks
    assert weights_kind(blocks.state_dict()) == WeightsKind(size, version, 5)


def test_a_file_of_another_size_says_which(meta_file):
    with pytest.raises(ValueError, match=r"tiny\.pt holds a SAM 2 of size 'tiny'.*'small'"):
        pretrained_sam2(size="small", checkpoint=meta_file, image_size=SIDE)


def test_a_part_of_a_model_is_refused(source, tmp_path):
    state = {
        f"sam2.blocks.{k}": v for k, v in parameters(source).items() if "memory_attention" in k
    }
    save_safetensors(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks some of .*mask_decoder.*convert_sam2"):
        tiny(tmp_path / "model.safetensors")


def test_other_models_are_refused(tmp_path):
    torch.save({"model": {"layer1.weight": torch.ones(2)}}, tmp_path / "resnet.pt")
    with pytest.raises(ValueError, match=r"resnet\.pt is not a SAM 2 checkpoint.*layer1\.weight"):
        tiny(tmp_path / "resnet.pt")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sam2.1_hiera_base_plus.pt", "segment_anything_2/092824/sam2.1_hiera_base_plus.pt"),
        ("sam2_hiera_large.pt", "segment_anything_2/072824/sam2_hiera_large.pt"),
        ("sam2.1_hiera_large_maskmem_22.pt", "pretrained_models/reshape.py"),
        ("mine.pt", "transformers"),
    ],
)
def test_a_missing_file_says_where_to_get_it(name, hint, tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(hint)):
        tiny(tmp_path / name)
    found = registry.mistakes(
        dict(type=pretrained_sam2, size="tiny", checkpoint=str(tmp_path / name))
    )
    assert len(found) == 1 and str(tmp_path / name) in found[0]


def test_files_are_mapped_not_copied(meta_file):
    """Reading makes no second copy of the weights in memory."""
    state = read_state(meta_file)
    largest = max(state.values(), key=torch.numel)
    address = largest.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(end, 16) for end in line.split()[0].split("-"))
        if start <= address < stop:
            assert str(meta_file) in line
            return
    pytest.fail("the tensor's memory is not mapped")
