"""Grounded models on Qwen-VL as folders: the same answers, and stock transformers reads them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from projects.llava_sam2.datasets.inputs import GroundingInputs
from projects.llava_sam2.datasets.native import NativeResolution
from projects.llava_sam2.hf import export, internvl_from_folder, load, sa2va_from_folder
from projects.llava_sam2.hf.described import describe_inputs
from projects.llava_sam2.hf.qwen_vl import qwen_vl_from_folder
from projects.llava_sam2.models.heads import ChatHead
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.predictor import GroundedPredictor
from tests.llava_sam2.models.test_qwen_vl import KINDS, MARKS, build
from tests.llava_sam2.models.toy_parts import segment_head, toy_sam2, word_tokenizer

QUESTION, FORCED = "segment the red circle .", "sure it is [SEG] ."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("qwen"), [*MARKS, "<|video_pad|>"])


@pytest.fixture(params=KINDS)
def asked(request, tokenizer):
    """A model with LoRA that has trained, and how it is asked."""
    mllm = build(request.param, tokenizer)
    for parameter in mllm.parameters():  # as a run begins: frozen bfloat16, what trains float32
        parameter.data = parameter.data.to(torch.bfloat16)
    heads = {"segment": segment_head(), "chat": ChatHead()}
    model = Sa2VA(
        mllm=mllm,
        grounding=toy_sam2(),
        heads=heads,
        trainable=["heads", "mllm.*embed_tokens", "mllm.model.lm_head"],
        lora=dict(rank=3, alpha=6, targets=["self_attn.*_proj"]),
        propagation_decoder="original",
    )
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.02)
    inputs = GroundingInputs(
        tokenizer=tokenizer,
        template=mllm.template,
        tiles=NativeResolution(size=40, token=8, min_tokens=9, max_tokens=80, frame_tokens=(4, 20)),
        tokens_per_tile=25,
        grounding_size=96,
        max_length=512,
    )
    return model.eval(), inputs


def answer(predictor):
    image = np.random.default_rng(3).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    region = np.zeros(image.shape[:2], bool)
    region[10:30, 40:80] = True
    whole, part = predictor.image(
        image, [QUESTION, "segment <region> ."], forced=[FORCED] * 2, regions=[[], [region]]
    )
    return np.stack([whole.decoded(), part.decoded()])


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_answers_with_the_same_masks_in_one_line(tmp_path, asked, keep):
    model, inputs = asked
    before = answer(GroundedPredictor(model=model, inputs=inputs))
    ask = {"inputs": describe_inputs(inputs), "frames": None}
    report = export(model, tmp_path / "out", keep_lora=keep, ask=ask, dtype=torch.float32)
    assert report.merged == (0 if keep else 3 * 4)
    predictor = load(tmp_path / "out")
    assert predictor.inputs.describe() == inputs.describe()
    assert type(predictor.model.mllm) is type(model.mllm) and predictor.decoder is not None
    found = answer(predictor)
    merged = answer(GroundedPredictor(model=model, inputs=inputs))
    assert (found != merged).mean() < 0.01 and (found != before).mean() < 0.02
    assert 0.02 < found.mean() < 0.98 and (found[0] != found[1]).any()


def test_auto_is_bfloat16_beside_trained_float32(tmp_path, asked):
    model, _ = asked
    export(model, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    again = sa2va_from_folder(path=tmp_path / "out", dtype="auto")
    assert {p.dtype for p in again.mllm.parameters()} == {torch.bfloat16}
    whole = sa2va_from_folder(path=tmp_path / "out", dtype="float32")
    words = model.mllm.model.get_input_embeddings().weight
    assert torch.equal(whole.mllm.model.get_input_embeddings().weight, words)


@torch.no_grad()
def test_stock_transformers_reads_it(tmp_path, asked):
    model, inputs = asked
    ask = {"inputs": describe_inputs(inputs), "frames": None}
    export(model, tmp_path / "out", ask=ask, dtype=torch.float32)
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    image = np.random.default_rng(3).integers(0, 256, (48, 88, 3), dtype=np.uint8)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}])
    given = processor(images=[image], text=[text], return_tensors="pt")
    pixels = inputs.pixel_values(image[None], video=False)
    wanted = inputs.prompt(QUESTION, tiles=pixels, video=False, name="x")
    assert given["input_ids"][0].tolist() == wanted.tolist()
    model.mllm.model.float()
    hidden = model.mllm(wanted[None], torch.ones(1, len(wanted)).bool(), pixels)
    logits = stock(**given).logits
    torch.testing.assert_close(logits, model.mllm.logits(hidden), rtol=1e-2, atol=1e-2)


def test_released_names_of_an_earlier_transformers(tmp_path, tokenizer):
    mllm = build("2.5", tokenizer)
    mllm.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    state = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tensor
        for name, tensor in mllm.model.state_dict().items()
    }
    assert "visual.patch_embed.proj.weight" in state and "model.norm.weight" in state
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = qwen_vl_from_folder(path=tmp_path, tile_size=40, dtype="float32")
    for name, tensor in mllm.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    for one, other in zip(mllm.model.buffers(), again.model.buffers(), strict=True):
        assert torch.equal(one, other)  # rotary tables are made, not loaded


def as_released(folder, said, state):
    """An export of ours as ``ByteDance/Sa2VA-Qwen*`` has it: the language model is called model."""
    ours = ("grounding_encoder.", "text_hidden_fcs.")
    inner = {n: t for n, t in state.items() if not n.startswith(("heads.", *ours))}
    kept = {n: t for n, t in state.items() if n.startswith(ours) and "propagation" not in n}
    released = kept | {f"model.{name}": tensor for name, tensor in inner.items()}
    save_file(released, folder / "model.safetensors", metadata={"format": "pt"})
    # what is of a released size needs no description; a toy does
    said["grounded"] = {key: said["grounded"][key] for key in ("sam2", "heads")}
    said |= {"model_type": "sa2va_chat", "architectures": ["Sa2VAChatModelQwen"]}
    (folder / "config.json").write_text(json.dumps(said))


@pytest.mark.parametrize("tied", [False, True])  # as config.json says; the file says otherwise
def test_a_released_sa2va_on_qwen_answers_as_it_was_trained(tmp_path, asked, tied):
    model, inputs = asked
    folder = tmp_path / "out"
    export(model, folder, dtype=torch.float32)
    wanted = answer(GroundedPredictor(model=model, inputs=inputs))
    said = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": tied}
    as_released(folder, said, load_file(folder / "model.safetensors"))
    predictor = load(folder, inputs=inputs, dtype="auto", image_size=96)
    assert predictor.model.mllm.template == model.mllm.template
    assert (answer(predictor) != wanted).mean() < 0.01
    with pytest.raises(ValueError, match="InternVL"):
        internvl_from_folder(path=folder)


def test_what_has_no_place(tmp_path, asked):
    model, _ = asked
    with pytest.raises(ValueError, match="the original layout is InternVL's"):
        export(model, tmp_path / "out", layout="original")
    assert not (tmp_path / "out").exists()
    export(model, tmp_path / "out")
    with pytest.raises(ValueError, match=r"is of a 'qwen(2_5|3)_vl'"):
        internvl_from_folder(path=tmp_path / "out")
