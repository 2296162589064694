"""Meta's names to ours and back, at every size, and the reshape command."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pretrained_models.reshape import main as reshape_main
from projects.sam2_video.modeling import build_sam2, sam2_config, toy_config
from projects.sam2_video.modeling.meta_weights import (
    from_meta_names,
    load_meta_checkpoint,
    load_meta_state,
    resample_memory_slots,
    to_meta_names,
    to_meta_state,
)
from tests.sam2_video.meta_reference import HIERA, build_meta

PARAMETERS = {"tiny": 38962498, "small": 46060354, "base_plus": 80850178, "large": 224446642}


@pytest.mark.parametrize(("version", "slots"), [("2.0", 7), ("2.1", 7), ("2.1", 22)])
@pytest.mark.parametrize("size", HIERA)
def test_every_size_maps_without_a_tensor_left_over(size, version, slots, monkeypatch):
    # Meta's Hiera reads the drop rates as numbers, which the meta device does not have
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        theirs = build_meta(size, image_size=1024, version=version, num_maskmem=slots).state_dict()
        ours = build_sam2(sam2_config(size, version=version, num_maskmem=slots)).blocks
    mine = ours.state_dict()
    mapped = from_meta_names(theirs)
    assert mapped.keys() == mine.keys()
    assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in mine.items()}
    back = to_meta_names(mine)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in theirs.items()}
    if version == "2.1":
        more = 64 * (slots - 7)
        assert sum(p.numel() for p in ours.parameters()) == PARAMETERS[size] + more


@pytest.fixture(scope="module")
def meta_file(tmp_path_factory):
    torch.manual_seed(0)
    state = build_meta(image_size=128).state_dict()
    path = tmp_path_factory.mktemp("meta") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": state}, path)
    return path, state


@pytest.fixture(scope="module")
def model():
    return build_sam2(sam2_config("tiny", image_size=128))


def test_round_trip_is_bit_equal(meta_file, model):
    path, state = meta_file
    report = load_meta_checkpoint(model, path)
    assert len(report.matched) == 469 and not report.notes
    back = to_meta_state(model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    twin = model.blocks.shared_image_embedding.positional_embedding
    assert torch.equal(twin, model.blocks.prompt_encoder.shared_embedding.positional_embedding)


def test_other_models_are_refused(meta_file, model):
    _, state = meta_file
    with pytest.raises(ValueError, match="not a SAM 2 checkpoint"):
        load_meta_state(model, {"layer.weight": torch.ones(2)}, where="resnet.pt")
    with pytest.raises(ValueError, match="no rule for: extra.weight"):
        load_meta_state(model, state | {"extra.weight": torch.ones(2)}, where="file")
    with pytest.raises(ValueError, match="another model or size"):
        load_meta_state(build_sam2(toy_config()), state, where="file")
    older = {k: v for k, v in state.items() if k != "no_obj_embed_spatial"}
    with pytest.raises(ValueError, match="missing: occlusion_spatial"):
        load_meta_state(model, older, where="sam2.0.pt")


def test_more_memory_slots_are_resampled_and_named(meta_file):
    _, state = meta_file
    grown = build_sam2(sam2_config("tiny", image_size=128, num_maskmem=22))
    report = load_meta_state(grown, state, where="file")
    assert "7 memory slots resampled to 22" in str(report)
    table = grown.blocks.memory_temporal_positional_encoding.detach()
    old = state["maskmem_tpos_enc"]
    # the previous frame's slot and the conditioning frames' slot stay what they were
    assert torch.equal(table[0], old[0]) and torch.equal(table[-1], old[-1])
    place = 10 * 6 / 21  # of new slot 10 among the old ones
    expected = old[2] * (3 - place) + old[3] * (place - 2)
    torch.testing.assert_close(table[10], expected, rtol=0, atol=1e-6)


def test_reshape_command(meta_file, caplog):
    path, state = meta_file
    output = path.with_name("sam2.1_hiera_tiny_maskmem_22.pt")
    assert reshape_main(["--input", str(path)]) == 0
    written = torch.load(output, weights_only=True)["model"]
    assert written["maskmem_tpos_enc"].shape == (22, 1, 1, 64)
    assert written.keys() == state.keys()
    untouched = [key for key in state if key != "maskmem_tpos_enc"]
    assert all(torch.equal(written[key], state[key]) for key in untouched)

    before = output.read_bytes()
    assert reshape_main(["--input", str(path)]) == 1
    assert "--force" in caplog.text and output.read_bytes() == before
    assert (
        reshape_main(
            ["--input", str(path), "--num-maskmem", "9", "--output", str(output), "--force"]
        )
        == 0
    )
    assert len(torch.load(output, weights_only=True)["model"]["maskmem_tpos_enc"]) == 9


def test_reshape_refuses_other_files(tmp_path, caplog):
    torch.save({"model": {"maskmem_tpos_enc": torch.ones(7, 1, 1, 64)}}, tmp_path / "other.pt")
    assert reshape_main(["--input", str(tmp_path / "other.pt")]) == 1
    assert "not a SAM 2 checkpoint" in caplog.text
    assert reshape_main(["--input", str(tmp_path / "gone.pt")]) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["other.pt"]


def test_resampling_wants_a_table():
    with pytest.raises(ValueError, match="both need 2"):
        resample_memory_slots(torch.ones(7, 1, 1, 64), 1)
    with pytest.raises(ValueError, match=r"\[slots, 1, 1, D\]"):
        resample_memory_slots(torch.ones(7, 64), 22)
