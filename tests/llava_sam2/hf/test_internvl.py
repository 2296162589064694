"""InternVL's original folders give the numbers of InternVL's original arithmetic."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from projects.common.conversation import SEG, load_shared_tokenizer, prompt_ids, token_id
from projects.llava_sam2.hf.architectures import RELEASED, from_original, to_original
from projects.llava_sam2.hf.internvl import internvl_from_folder
from projects.llava_sam2.hf.names import OriginalNames
from tests.llava_sam2.hf import original

FAMILIES = [("qwen2", "300m"), ("internlm2", "300m"), ("internlm2", "6b"), ("qwen2", "6b")]
TOKENIZERS = {
    "qwen2": original.write_qwen2_tokenizer,
    "internlm2": original.write_internlm2_tokenizer,
}
VIT = original.numbers("qwen2", "300m")["vision_config"]
WQKV = "language_model.model.layers.1.attention.wqkv.weight"
PUBLISHED = {"1B": 0.938, "2B": 2.21, "4B": 3.71, "8B": 8.08, "26B": 25.5}  # billions


def make(folder, language="qwen2", vision="300m", *, tied=False, seed=0, **changes):
    """A small model in the original layout; returns its config and tensors."""
    config = original.numbers(language, vision, **changes)
    config["llm_config"]["vocab_size"] = TOKENIZERS[language](folder)
    config["llm_config"]["tie_word_embeddings"] = tied
    state = original.random_state(config, seed)
    original.write_folder(folder, config, state)
    return config, state


def load(folder, **options):
    return internvl_from_folder(path=folder, dtype="float32", attn="eager", **options).eval()


def expected(mllm, config, state, ids, pixels):
    """Hidden states and logits of the original arithmetic, new words as their mean."""
    table = original.with_rows(original.embedding_table(state), len(mllm.tokenizer))
    embeddings = table[ids].clone()
    visual = original.visual_tokens(state, config, pixels)
    embeddings[ids == mllm.image_id] = visual.flatten(0, 1)
    hidden, logits = original.language(state, config, embeddings)
    head = original.with_rows(original.head_table(state), len(mllm.tokenizer))
    return hidden, hidden @ head.T


@pytest.mark.parametrize(("language", "vision"), FAMILIES)
def test_the_numbers_are_those_of_the_original_arithmetic(tmp_path, language, vision):
    config, state = make(tmp_path, language, vision)
    mllm = load(tmp_path)
    question = f"<image> please segment the red circle {SEG} left of {SEG} it"
    ids = prompt_ids(mllm.tokenizer, question, mllm.template, image_tokens=8)
    pixels = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8)
    with torch.no_grad():
        hidden = mllm(ids[None], torch.ones_like(ids[None], dtype=torch.bool), pixels)[0]
        logits = mllm.model.lm_head(hidden)
    truth, true_logits = expected(mllm, config, state, ids, pixels)
    assert (ids == mllm.seg_id).sum() == 2 and truth.std() > 0.5
    torch.testing.assert_close(hidden, truth, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, true_logits, atol=1e-4, rtol=1e-4)
    at_seg = ids == mllm.seg_id
    torch.testing.assert_close(hidden[at_seg], truth[at_seg], atol=1e-4, rtol=1e-4)


def test_dynamic_rope_beyond_the_trained_length(tmp_path):
    config, state = make(tmp_path, "internlm2")
    mllm = load(tmp_path)
    ids = torch.randint(10, 300, (100,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = mllm(ids[None], torch.ones_like(ids[None], dtype=torch.bool))[0]
    truth, _ = original.language(state, config, original.embedding_table(state)[ids])
    torch.testing.assert_close(hidden, truth, atol=1e-4, rtol=1e-4)


def test_a_transposed_pixel_shuffle_would_be_seen(tmp_path):
    """The layout matters: swapping rows and columns of the patches changes the tokens."""
    config, state = make(tmp_path)
    pixels = torch.randint(0, 256, (1, 3, 56, 56), dtype=torch.uint8)
    with torch.no_grad():
        found = load(tmp_path).visual_features(pixels)
    truth = original.visual_tokens(state, config, pixels)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)
    swapped = truth.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
    assert (swapped - found).abs().max() > 0.1


@pytest.mark.parametrize("size", list(RELEASED))
def test_every_size_builds_and_maps_on_the_meta_device(tmp_path, size):
    config = RELEASED[size]
    names = OriginalNames(from_original(config, where=size))
    with torch.device("meta"):
        mllm = internvl_from_folder(path=None, size=size)
        files = {name: torch.empty(shape) for name, shape in original.shapes(config).items()}
        made = [names.from_original(name, tensor) for name, tensor in files.items()]
        own = mllm.model.state_dict()
        targets = [target for part in made for target in part]
        assert sorted(targets) == sorted(own)  # each once, none missing, none left over
        for part in made:
            for target, tensor in part.items():
                assert tensor.shape == own[target].shape, target
        back = names.to_original(own)
        assert {name: tensor.shape for name, tensor in back.items()} == {
            name: tensor.shape for name, tensor in files.items()
        }
    count = sum(parameter.numel() for parameter in mllm.parameters())
    assert count / 1e9 == pytest.approx(PUBLISHED[size], rel=2e-3)
    assert mllm.image_tokens_per_tile == 256 and mllm.tile_size == 448


@pytest.mark.parametrize("heads", [(4, 2), (6, 2), (4, 1), (3, 3)])
def test_wqkv_splits_and_joins(heads):
    config = original.numbers("internlm2", "300m")
    queries, kv = heads
    config["llm_config"] |= dict(
        num_attention_heads=queries, num_key_value_heads=kv, hidden_size=12, vocab_size=9
    )
    names = OriginalNames(from_original(config, where="test"))
    fused = torch.randn((queries + 2 * kv) * (12 // queries), 12)
    q, k, v = names.split_wqkv(fused)
    d, group = 12 // queries, queries // kv
    for head in range(queries):  # row by row, as the figure of the layout says
        start = (head // group * (group + 2) + head % group) * d
        assert torch.equal(q[head * d : (head + 1) * d], fused[start : start + d])
    assert torch.equal(k[:d], fused[group * d : (group + 1) * d])
    assert torch.equal(v[:d], fused[(group + 1) * d : (group + 2) * d])
    assert torch.equal(names.join_wqkv(q, k, v), fused)


@pytest.mark.parametrize(("language", "vision"), FAMILIES)
def test_config_and_names_go_back_unchanged(tmp_path, language, vision):
    config, state = make(tmp_path, language, vision)
    mine = from_original(config, where="test")
    again = from_original(to_original(mine), where="test")
    assert again.to_dict() == mine.to_dict()
    names = OriginalNames(mine)
    ours = {}
    for name, tensor in state.items():
        ours |= names.from_original(name, tensor)
    back = names.to_original(ours)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


# ---- tied words ----------------------------------------------------------------------


def test_tied_words_need_no_head(tmp_path):
    config, state = make(tmp_path, tied=True)
    assert "language_model.lm_head.weight" not in state
    mllm = load(tmp_path)
    assert mllm.model.lm_head.weight is mllm.model.get_input_embeddings().weight
    hidden, logits = original.language(state, config, original.embedding_table(state)[:9])
    with torch.no_grad():
        ids = torch.arange(9)[None]
        found = mllm.model.lm_head(mllm(ids, torch.ones_like(ids, dtype=torch.bool)))[0]
    torch.testing.assert_close(found[:, : logits.shape[1]], logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("equal", [True, False])
def test_a_head_beside_tied_words_decides_itself(tmp_path, equal):
    config, state = make(tmp_path, tied=True)
    head = original.embedding_table(state).clone() + (0 if equal else 1)
    state["language_model.lm_head.weight"] = head
    original.write_folder(tmp_path, config, state)
    mllm = load(tmp_path)
    tied = mllm.model.lm_head.weight is mllm.model.get_input_embeddings().weight
    assert tied == equal
    assert torch.equal(mllm.model.lm_head.weight[: len(head)], head)


# ---- options ----------------------------------------------------------------------


def test_dtype_template_and_tokenizer_are_as_asked(tmp_path):
    make(tmp_path, "internlm2")
    tokenizer = load_shared_tokenizer(tmp_path)
    mllm = internvl_from_folder(path=tmp_path, tokenizer=tokenizer, template="vicuna")
    assert mllm.model.dtype == torch.bfloat16 and mllm.template == "vicuna"
    assert mllm.tokenizer is tokenizer
    assert mllm.model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert all(not buffer.is_meta for buffer in mllm.buffers())
    assert load(tmp_path).template == "internlm2_chat"
    assert mllm.model.config.image_token_id == token_id(tokenizer, "<IMG_CONTEXT>")


def test_without_weights_on_the_meta_device_the_folder_is_still_checked(tmp_path):
    make(tmp_path)
    with torch.device("meta"):
        mllm = internvl_from_folder(path=tmp_path)
    assert all(parameter.is_meta for parameter in mllm.parameters())


TEXTS = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig, "moe": Qwen3MoeConfig}


def write_transformers(folder, language="qwen2", *, tied=False, earlier=False, **changes):
    """A folder as transformers writes it (or wrote it before its version 5); returns its model."""
    torch.manual_seed(1)
    narrow = dict(head_dim=8) if language in ("qwen3", "moe") else {}
    text = TEXTS[language](
        vocab_size=original.write_qwen2_tokenizer(folder) + 8,  # as many as a tensor core likes
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        **narrow,
    )
    sizes = dict(hidden_size=24, num_attention_heads=3, intermediate_size=40, num_hidden_layers=2)
    vision = InternVLVisionConfig(**sizes, image_size=[56, 56], patch_size=[14, 14])
    config = InternVLConfig(
        vision_config=vision, text_config=text, tie_word_embeddings=tied, **changes
    )
    model = InternVLForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    model.save_pretrained(folder)
    if earlier:
        file = folder / "model.safetensors"
        save_file({earlier_name(key): value for key, value in load_file(file).items()}, file)
    return model


def earlier_name(name):
    head = "language_model." if name.startswith("lm_head") else ""
    name = name.replace("model.language_model.", "language_model.model.")
    return head + re.sub(r"^model\.(vision_tower|multi_modal_projector)\.", r"\1.", name)


@pytest.mark.parametrize(
    ("language", "tied", "earlier"),
    [
        ("qwen3", False, False),
        ("qwen3", True, False),
        ("qwen2", True, True),
        ("llama", False, True),
    ],
)
def test_a_folder_of_transformers_gives_its_numbers(tmp_path, language, tied, earlier):
    """InternVL3 and 3.5 (Qwen3) among them."""
    stock = write_transformers(tmp_path, language, tied=tied, earlier=earlier)
    stock.set_attn_implementation("eager")
    mllm = load(tmp_path)
    assert mllm.template == ("internlm2_chat" if language == "llama" else "qwen_chat")
    stock.model.config.image_token_id = mllm.image_id
    ids = prompt_ids(mllm.tokenizer, f"<image> it {SEG}", mllm.template, image_tokens=8)[None]
    pixels = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8)
    with torch.no_grad():
        hidden = mllm(ids, torch.ones_like(ids, dtype=torch.bool), pixels)
        found = mllm.model.lm_head(hidden)
        coloured = (pixels / 255 - mllm.mean) / mllm.std
        wanted = stock(input_ids=ids, pixel_values=coloured).logits
    assert wanted.std() > 0.1
    torch.testing.assert_close(found[..., : wanted.shape[-1]], wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(vision_feature_layer=-2), "vision_feature_layer=-2 .* cannot be computed"),
        (dict(vision_feature_select_strategy="full"), "strategy='full' cannot be computed"),
        (dict(language="moe"), "a language model of experts .qwen3_moe. is not known"),
    ],
)
def test_folders_of_transformers_that_would_be_computed_otherwise(tmp_path, options, message):
    write_transformers(tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_rope_tables_of_older_files_are_computed_instead(tmp_path):
    config, state = make(tmp_path, "internlm2")
    state["language_model.model.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(4)
    original.write_folder(tmp_path, config, state)
    load(tmp_path)


# ---- mistakes ----------------------------------------------------------------------


def test_missing_shards_are_named(tmp_path):
    make(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of 3 shards.*model-00002"):
        load(tmp_path)


def test_a_shard_without_a_promised_tensor(tmp_path):
    make(tmp_path)
    file = tmp_path / "model-00001-of-00003.safetensors"
    kept = load_file(file)
    name = next(iter(kept))
    del kept[name]
    save_file(kept, file)
    with pytest.raises(ValueError, match=f"places 1 tensors.*{re.escape(name)}.*incomplete"):
        load(tmp_path)


def test_a_cut_shard(tmp_path):
    make(tmp_path)
    file = tmp_path / "model-00001-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mlp1.3.bias"), r"1 missing.*\n.*multi_modal_projector.linear_2.bias"),
        (lambda s: s.update({"extra.weight": torch.ones(2)}), r"1 unexpected.*\n.*extra.weight"),
        (lambda s: s.update({"mlp1.3.bias": torch.ones(2)}), r"1 of another shape"),
        (
            lambda s: s.update({WQKV: torch.ones(62, 32)}),
            r"1 of another shape(.*\n)+.*wqkv.weight: 62 rows in the file are not 8 heads",
        ),
        (
            lambda s: s.update({"lm_head.weight": torch.ones(2)}),
            r"lm_head.weight \(lm_head.weight is|lm_head.weight",
        ),
    ],
)
def test_unexplained_tensors_are_an_error_before_any_is_read(
    tmp_path, monkeypatch, change, message
):
    config, state = make(tmp_path, "internlm2")
    change(state)
    original.write_folder(tmp_path, config, state)
    monkeypatch.setattr("projects.llava_sam2.hf.internvl.fill", lambda *a, **k: pytest.fail("read"))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ps_version": "v1"}, "ps_version='v1'"),
        ({"select_layer": -4}, "select_layer=-4"),
        ({"downsample_ratio": 0.25}, "downsample_ratio=0.25"),
        ({"force_image_size": 224}, "force_image_size=224"),
        ({"use_llm_lora": 16}, "use_llm_lora=16.*merge"),
        ({"template": "Hermes-2"}, "chat template 'Hermes_2'.*template="),
        ({"architectures": ["LlavaModel"], "model_type": "llava"}, "is of a 'llava'"),
        ({"llm_config": {"architectures": ["Phi3ForCausalLM"]}}, "Phi3ForCausalLM is not known"),
        ({"llm_config": {"architectures": ["Qwen2ForCausalLM"]}}, "lacks vocab_size"),
        ({"llm_config": None}, "lacks llm_config"),
        ({"llm_config": None, "text_config": {}}, "of a Sa2VA on Qwen-VL"),
        ({"architectures": "InternVLChatModel"}, "architectures is 'InternVLChatModel', .* a list"),
        (
            {"vision_config": VIT | {"num_attention_heads": 0}},
            "no model that can be built",
        ),
        ({"vision_config": VIT | {"hidden_size": "24"}}, "no model that can be built.*hidden_size"),
        ({"vision_config": VIT | {"hidden_act": "wave"}}, "no model that can be built.*wave"),
    ],
)
def test_configs_of_other_models_are_refused(tmp_path, change, message):
    make(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_a_template_that_does_not_exist(tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match="no chat template 'qwen'"):
        load(tmp_path, template="qwen")


def test_a_tokenizer_without_the_image_tokens(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(original, "IMAGE_TOKENS", [])
    original.write_qwen2_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="lacks <img>, <IMG_CONTEXT>, </img>.*added_tokens.json"):
        load(tmp_path)


def test_a_tokenizer_of_another_model(tmp_path):
    make(tmp_path / "model")
    original.write_internlm2_tokenizer(tmp_path / "other")
    tokenizer = load_shared_tokenizer(tmp_path / "other")
    (tmp_path / "model" / "vocab.json").unlink()  # no tokenizer of its own to compare with
    with pytest.raises(ValueError, match="269 embeddings.*<img>, <IMG_CONTEXT>, </img> ids beyond"):
        load(tmp_path / "model", tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(path=None), "give path .* or size"),
        (dict(path=None, size="3B"), "unknown InternVL2.5 size '3B'; choose one of 1B"),
        (dict(path=None, size="1B", attn="fast"), "unknown attention"),
        (dict(path=None, size="1B", dtype="int8"), "unknown dtype"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        internvl_from_folder(**options)


def test_no_folder_and_pickles_only(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        load(tmp_path / "nowhere")
    make(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="can run code"):
        load(tmp_path)
