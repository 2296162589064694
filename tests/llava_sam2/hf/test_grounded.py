"""Releases of Sa2VA and SeC: names, parts, round trips; with a tiny SAM 2 and a small rest."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from projects.common.conversation import GROUNDING_TOKENS, SEG
from projects.common.tokenizer_files import read_tokenizer
from projects.llava_sam2.hf import export, grounded_parts, internvl_from_folder, sa2va_from_folder
from projects.llava_sam2.hf.described import tile_settings
from projects.llava_sam2.hf.grounding import sec_settings
from projects.llava_sam2.hf.shards import wanted
from projects.llava_sam2.hf.writing import folder_state
from projects.llava_sam2.models.heads import ChatHead, ConceptHead, SegmentHead, seg_projector
from projects.sam2_video.modeling import build_sam2, sam2_config, to_meta_state, toy_config
from tests.llava_sam2.hf import original

SIDE = 128
HIDDEN = 32
# what released folders' own code reads beside the two models
SETTINGS = dict(
    dynamic_image_size=True,
    use_thumbnail=True,
    min_dynamic_patch=1,
    max_dynamic_patch=12,
    pad2square=False,
    use_backbone_lora=0,
    use_llm_lora=0,
)
SEC_SETTINGS = dict(grounding_encoder_config="sam2.1/sam2.1_hiera_t.yaml", grounding_maskmem_num=22)


def concept_head(sam2):
    head = ConceptHead(projector=seg_projector(hidden=HIDDEN, out=256))
    head.start_from(sam2)
    return head


def write_release(folder, kind):
    """A folder as Sa2VA (SAM 2.0) or SeC (SAM 2.1, 22 slots) are published; returns its tensors."""
    is_sec = kind == "sec"
    language = "qwen2" if is_sec else "internlm2"
    names = ("SeCModel", "sec") if is_sec else ("Sa2VAChatModel", "sa2va_chat")
    template = "qwen_chat" if is_sec else "internlm2_chat"
    config = original.numbers(language, "300m", template=template)
    config |= dict(architectures=[names[0]], model_type=names[1], torch_dtype="bfloat16")
    config |= SETTINGS | (SEC_SETTINGS if is_sec else {})
    write = getattr(original, f"write_{language}_tokenizer")
    # SeC was trained with [SEG] alone: 151,675 tokens, one more than InternVL2.5-4B's
    config["llm_config"]["vocab_size"] = write(folder, [SEG] if is_sec else GROUNDING_TOKENS)
    state = original.random_state(config)
    torch.manual_seed(3)
    version, slots = ("2.1", 22) if is_sec else ("2.0", 7)
    sam2 = build_sam2(sam2_config("tiny", image_size=SIDE, num_maskmem=slots, version=version))
    level = "grounding_encoder." if is_sec else "grounding_encoder.sam2_model."
    for name, tensor in to_meta_state(sam2).items():
        tensor = torch.randn_like(tensor) * 0.02 if not tensor.any() else tensor
        state[level + name.replace(".gamma", ".g_weight")] = tensor
    if is_sec:
        prefix = "grounding_encoder.memory_attention."
        for name in [name for name in state if name.startswith(prefix)]:
            changed = state[name] + 0.5
            state["grounding_encoder.token_attn." + name.removeprefix(prefix)] = changed
    state |= {
        "text_hidden_fcs.0.weight": torch.randn(HIDDEN, HIDDEN),
        "text_hidden_fcs.0.bias": torch.randn(HIDDEN),
        "text_hidden_fcs.2.weight": torch.randn(256, HIDDEN),
        "text_hidden_fcs.2.bias": torch.randn(256),
    }
    state = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    original.write_folder(folder, config, state, shards=4)
    return state


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("releases")
    return {kind: (folder / kind, write_release(folder / kind, kind)) for kind in ("sa2va", "sec")}


def read(folder):
    state = {}
    for file in folder.glob("*.safetensors"):
        state |= load_file(file)
    return state


def test_sa2va_comes_whole(releases):
    folder, state = releases["sa2va"]
    model = sa2va_from_folder(path=folder, image_size=SIDE, dtype="auto")
    assert model.mllm.template == "internlm2_chat" and model.mllm.model.dtype == torch.bfloat16
    assert model.mllm.tokenizer.get_vocab()[SEG] == model.mllm.seg_id
    assert len(model.mllm.tokenizer) == model.mllm.model.config.text_config.vocab_size  # no growth
    config = model.grounding.blocks.config
    assert not config.enable_occlusion_spatial_embedding and config.num_maskmem == 7  # SAM 2.0
    meta = to_meta_state(model.grounding)
    for name, tensor in meta.items():
        theirs = "grounding_encoder.sam2_model." + name.replace(".gamma", ".g_weight")
        assert torch.equal(tensor.to(torch.bfloat16), state[theirs]), name
    assert model.grounding.dtype == torch.float32
    head = model.heads["segment"]
    for name, tensor in head.text_hidden_fcs.state_dict().items():
        assert torch.equal(tensor.to(torch.bfloat16), state[f"text_hidden_fcs.{name}"])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert list(model.heads) == ["segment", "chat"]


def test_heads_of_ones_own_take_the_projector(releases):
    folder, state = releases["sa2va"]
    heads = {"segment": SegmentHead(projector=seg_projector(hidden=HIDDEN, out=256))}
    model = sa2va_from_folder(
        path=folder,
        image_size=SIDE,
        heads=heads,
        trainable=["heads", "grounding.blocks.mask_decoder"],
        lora=dict(rank=2, alpha=4, targets=["q_proj"]),
    )
    found = model.heads["segment"].text_hidden_fcs[2].weight
    assert torch.equal(found.to(torch.bfloat16), state["text_hidden_fcs.2.weight"])
    assert found.requires_grad and not model.grounding.blocks.memory_attention.layer_norm.training


def test_a_projector_of_another_width_is_an_error(releases):
    heads = {"segment": SegmentHead(projector=seg_projector(hidden=HIDDEN, out=64))}
    with pytest.raises(ValueError, match="head 'segment'.*of another shape"):
        sa2va_from_folder(path=releases["sa2va"][0], image_size=SIDE, heads=heads)


def test_secs_concept_attention_is_never_lost_silently(releases):
    folder, state = releases["sec"]
    with pytest.raises(ValueError, match="holds token_attn, and no head.*leave_out=.'token_attn'"):
        sa2va_from_folder(path=folder, image_size=SIDE)
    model = sa2va_from_folder(path=folder, image_size=SIDE, leave_out=["token_attn"])
    rows = len(state["language_model.model.embed_tokens.weight"])
    tokens = model.mllm.tokenizer.get_vocab()
    assert tokens[SEG] == rows - 1 and tokens["</vp>"] == rows + 3  # what it lacks comes after
    assert model.mllm.model.get_input_embeddings().num_embeddings == rows + 4
    assert model.grounding.num_maskmem == 22
    assert model.grounding.blocks.config.enable_occlusion_spatial_embedding
    assert model.mllm.template == "qwen_chat"

    parts = grounded_parts(path=folder, image_size=SIDE)
    wanted_weight = state["grounding_encoder.token_attn.layers.0.linear1.weight"]
    assert torch.equal(parts.concept.layers[0].linear1.weight.to(torch.bfloat16), wanted_weight)
    head = concept_head(parts.grounding)
    model = sa2va_from_folder(path=folder, image_size=SIDE, heads={"concept": head})
    state_of = {f"token_attn.{k}": v for k, v in parts.concept.state_dict().items()}
    assert all(torch.equal(model.heads["concept"].state_dict()[k], v) for k, v in state_of.items())


@pytest.mark.parametrize("kind", ["sa2va", "sec"])
def test_the_round_trip_is_equal_to_the_bit(tmp_path, releases, kind):
    folder, state = releases[kind]
    options = dict(tokenizer=read_tokenizer(folder), image_size=SIDE, dtype="auto")
    parts = grounded_parts(path=folder, **options)
    model = sa2va_from_folder(path=folder, leave_out=["token_attn"], **options)
    out = tmp_path / "out"
    report = export(
        model,
        out,
        layout="original",
        dtype=torch.bfloat16,
        concept=parts.concept,
        max_shard_size="20MB",
    )
    found = read(out)
    assert len(report.files) > 2 and set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)
    said = json.loads((out / "config.json").read_text())
    theirs = json.loads((folder / "config.json").read_text())
    sections = {"vision_config", "llm_config", "auto_map"}  # the last names remote code
    for key in set(theirs) - sections:
        assert said[key] == theirs[key], key
    for section in ("vision_config", "llm_config"):
        for key in set(theirs[section]) - {"drop_path_rate"}:
            assert said[section][key] == theirs[section][key], key
    again = sa2va_from_folder(path=out, dtype="auto", leave_out=["token_attn"])
    mine, own = model.state_dict(), again.state_dict()
    assert all(torch.equal(mine[key], own[key]) for key in mine)
    assert again.mllm.tokenizer.get_vocab() == model.mllm.tokenizer.get_vocab()


def test_tile_settings_are_those_that_the_model_is_asked_with():
    def ask(**tiles):
        return {"inputs": {"tiles": tiles}}

    assert tile_settings(None).items() <= SETTINGS.items()
    few = ask(kind="DynamicTiles", size=448, min_tiles=2, max_tiles=6, thumbnail=False)
    assert list(tile_settings(few).values()) == [True, False, 2, 6, False]
    assert list(tile_settings(ask(kind="SingleTile", size=448)).values()) == [
        *(False, False, 1, 1, False)
    ]


def test_a_sam_of_no_released_size_has_no_yaml():
    assert sec_settings(build_sam2(toy_config(num_maskmem=5))) == {"grounding_maskmem_num": 5}


def test_the_concept_head_is_saved_in_secs_names(releases):
    folder, state = releases["sec"]
    options = dict(tokenizer=read_tokenizer(folder), image_size=SIDE, dtype="auto")
    head = concept_head(grounded_parts(path=folder, **options).grounding)
    model = sa2va_from_folder(path=folder, heads={"concept": head}, **options)
    base = wanted(model.mllm.model)
    found = folder_state(model, base, layout="original", concept=head.token_attn)
    assert {name for name in found} == set(state)
    assert all(torch.equal(found[name].to(torch.bfloat16), state[name]) for name in state)


def test_the_original_decoder_propagates_where_it_is_given(tmp_path, releases):
    folder, state = releases["sa2va"]
    torch.manual_seed(8)
    released = build_sam2(sam2_config("tiny", image_size=SIDE, version="2.0"))
    torch.save({"model": to_meta_state(released)}, tmp_path / "sam2_hiera_tiny.pt")
    model = sa2va_from_folder(
        path=folder, image_size=SIDE, original_sam2=tmp_path / "sam2_hiera_tiny.pt"
    )
    kept, tuned = model.grounding.propagation_decoder, model.grounding.blocks.mask_decoder
    assert torch.equal(kept.conv_s0.weight, released.blocks.mask_decoder.conv_s0.weight)
    assert not torch.equal(kept.conv_s0.weight, tuned.conv_s0.weight)

    export(model, tmp_path / "out")  # and it is in an export
    again = sa2va_from_folder(path=tmp_path / "out")
    assert torch.equal(again.grounding.propagation_decoder.conv_s0.weight, kept.conv_s0.weight)
    with pytest.raises(ValueError, match="build the model with propagation_decoder='original'"):
        sa2va_from_folder(path=tmp_path / "out", propagation_decoder="tuned")
    options = dict(propagation_decoder="tuned", leave_out=["propagation_decoder"])
    assert sa2va_from_folder(path=tmp_path / "out", **options).grounding.propagation_decoder is None


def test_the_language_model_alone_comes_out_of_a_release(releases):
    folder, state = releases["sa2va"]
    mllm = internvl_from_folder(path=folder, dtype="auto")
    table = state["language_model.model.tok_embeddings.weight"]
    assert torch.equal(mllm.model.get_input_embeddings().weight, table)


def test_on_the_meta_device_nothing_is_read(releases, monkeypatch):
    monkeypatch.setattr("projects.llava_sam2.hf.shards.safe_open", no_tensors(safe_open))
    with torch.device("meta"):
        model = sa2va_from_folder(
            path=releases["sec"][0], image_size=SIDE, leave_out=["token_attn"]
        )
    assert all(parameter.is_meta for parameter in model.parameters())


def no_tensors(opener):
    class Headers:
        def __init__(self, *arguments, **options):
            self.inner = opener(*arguments, **options)

        def __enter__(self):
            self.opened = self.inner.__enter__()
            return self

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

        def keys(self):
            return self.opened.keys()

        def get_slice(self, name):
            return self.opened.get_slice(name)

        def get_tensor(self, name):
            pytest.fail(f"{name} was read")

    return Headers


def test_full_size_builds_on_the_meta_device():
    with torch.device("meta"):
        model = sa2va_from_folder(
            path=None,
            size="4B",
            lora=dict(rank=128, alpha=256, targets=["*_proj"]),
            trainable=["heads", "grounding.blocks.mask_decoder"],
        )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0.23e9 < trainable < 0.27e9  # LoRA of rank 128 on 36 layers, projector, mask decoder
    assert 4.1e9 < sum(p.numel() for p in model.parameters()) < 4.25e9


# ---- mistakes ---------------------------------------------------------------------------------


def test_a_language_model_alone_is_no_grounded_folder(tmp_path):
    config = original.numbers("qwen2", "300m")
    config["llm_config"]["vocab_size"] = original.write_qwen2_tokenizer(tmp_path)
    original.write_folder(tmp_path, config, original.random_state(config))
    with pytest.raises(ValueError, match="no grounding_encoder.*language model alone"):
        sa2va_from_folder(path=tmp_path)


@pytest.fixture
def broken(tmp_path, releases):
    """Rewrites the Sa2VA release with changed tensors or config."""

    def make(change=None, **config):
        folder, state = releases["sa2va"]
        state = dict(state)
        if change:
            change(state)
        original.write_internlm2_tokenizer(tmp_path, GROUNDING_TOKENS)
        said = json.loads((folder / "config.json").read_text())
        original.write_folder(tmp_path, said | config, state)
        return tmp_path

    return make


ENCODER = "grounding_encoder.sam2_model."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("text_hidden_fcs.2.weight"), "lacks text_hidden_fcs.2.weight"),
        (lambda s: s.pop("text_hidden_fcs.0.bias"), "1 missing"),
        (lambda s: s.pop(f"{ENCODER}no_obj_ptr"), "lacks some of|missing"),
        (lambda s: s.update({f"{ENCODER}other": torch.ones(2)}), "no rule for: other"),
        (lambda s: s.update({"segmenter.weight": torch.ones(2)}), "unexpected.*\n.*segmenter"),
        (
            lambda s: s.update({"text_hidden_fcs.2.weight": torch.ones(64, HIDDEN)}),
            "gives 64 channels, and its SAM 2 takes 256",
        ),
    ],
)
def test_partial_and_foreign_folders(broken, change, message):
    """Told by headers alone, as the config check does, and all the same where it is read."""
    folder = broken(change)
    for device in ("meta", "cpu"):
        with torch.device(device), pytest.raises(ValueError, match=message):
            sa2va_from_folder(path=folder, image_size=SIDE)


def test_a_template_that_does_not_exist(broken):
    with pytest.raises(ValueError, match="chat template 'llama9_chat', which is not known"):
        sa2va_from_folder(path=broken(template="llama9_chat"))


def test_a_grounded_tokenizer_without_seg(broken):
    folder = broken()
    original.write_internlm2_tokenizer(folder)
    with pytest.raises(ValueError, match=r"tokenizer lacks \[SEG\], <p>, </p>, <vp>, </vp>"):
        sa2va_from_folder(path=folder)


def test_unused_options(releases):
    with pytest.raises(ValueError, match="path .a folder. or size"):
        sa2va_from_folder(path=releases["sa2va"][0], size="4B")
    heads = {"chat": ChatHead()}
    with pytest.raises(ValueError, match="unknown InternVL2.5 size '5B'"):
        sa2va_from_folder(path=None, size="5B", heads=heads)
