"""What is exported loads again, here and in the libraries that others use."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoTokenizer, InternVLForConditionalGeneration, InternVLProcessor

from projects.common.conversation import TEMPLATES, encode_conversation, prompt_ids
from projects.common.engine import checkpoints
from projects.common.engine.model import build_model
from projects.llava_sam2.datasets.rows import Row
from projects.llava_sam2.evaluation.ask import asker
from projects.llava_sam2.hf import load, sa2va_from_folder, writing
from projects.llava_sam2.hf.described import describe_heads
from projects.llava_sam2.hf.processors import jinja
from projects.llava_sam2.hf.shards import parse_size
from projects.llava_sam2.hf.writing import export
from projects.llava_sam2.models.heads import ConceptHead, seg_projector
from projects.llava_sam2.region import Region
from tests.llava_sam2.datasets.tiny import LEFT, RIGHT, picture, save_jpeg, write_tokenizer
from tests.llava_sam2.hf import toy_export
from tools import convert_to_hf

QUESTIONS = ["segment red square .", "segment the big dog ."]
FORCED = ["sure it is [SEG] .", "it is [SEG] and [SEG] ."]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return toy_export.tree(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def model(tree):
    return toy_export.train(build_model(tree, tree["seed"])).eval()


@pytest.fixture
def clip(tmp_path):
    for number in range(5):
        save_jpeg(tmp_path / "clip" / f"{number}.jpg", number)
    return Row("clip", tmp_path / "clip", tuple(f"{n}.jpg" for n in range(5)), None, (), ())


def answers(predictor, clip):
    """Text and masks of an image and a video, written freely and put in the model's mouth; the
    image also with regions that the questions point at."""
    image, regions = picture(7), [[LEFT], [RIGHT, Region(box=(4, 3, 20, 15))]]
    return [
        *predictor.image(image, QUESTIONS, regions=regions),
        *predictor.image(image, QUESTIONS, regions=regions, forced=FORCED),
        *predictor.image(image, QUESTIONS),
        *predictor.image(image, QUESTIONS, forced=FORCED),
        *predictor.video(clip, QUESTIONS),
        *predictor.video(clip, QUESTIONS, forced=FORCED),
    ]


def same(found, wanted, *, differing=0.0):
    assert [a.text for a in found] == [a.text for a in wanted]
    assert [len(a.masks) for a in found] == [len(a.masks) for a in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        for number in range(len(theirs.masks)):
            off = mine.decoded(number) != theirs.decoded(number)
            assert off.mean() <= differing


@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_merged_it_answers_the_same_with_one_line(tmp_path, tree, model, clip, layout):
    asked = asker(tree)
    before = answers(asked.predictor(model), clip)
    assert any("[SEG]" in answer.text for answer in before[:2])
    assert sum(answer.decoded().mean() > 0.01 for answer in before if answer.masks) > 3
    report = export(
        model, tmp_path / "out", layout=layout, ask=convert_to_hf.asked(tree), card="# toy"
    )
    assert report.merged == 2 * 7 and "track" in report.notes[0] and "category" in report.notes[1]
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "category" in name]
    predictor = load(tmp_path / "out")
    found = answers(predictor, clip)
    same(found, answers(asked.predictor(model), clip))  # the model is merged by now
    same(found, before, differing=0.002)  # merging rounds otherwise
    assert predictor.decoder is not None and predictor.frames.num == 2
    assert predictor.model.inference_policy == model.inference_policy


def test_kept_lora_is_the_same_to_the_last_bit_and_goes_on_training(tmp_path, tree, model, clip):
    wanted = answers(asker(tree).predictor(model), clip)
    export(model, tmp_path / "out", keep_lora=True, ask=convert_to_hf.asked(tree))
    same(answers(load(tmp_path / "out"), clip), wanted)
    again = sa2va_from_folder(path=tmp_path / "out", trainable=["heads.segment"], dtype="float32")
    lora = [n for n, p in again.named_parameters() if ".lora_" in n and p.requires_grad]
    assert len(lora) == 2 * 7 * 2
    state, own = again.state_dict(), model.state_dict()
    assert all(torch.equal(state[name], own[name]) for name in state)
    with pytest.raises(ValueError, match="holds a LoRA .* of its own"):
        sa2va_from_folder(path=tmp_path / "out", lora=toy_export.LORA)


@pytest.mark.parametrize("keep", [False, True])
def test_stock_transformers_and_peft_load_it(tmp_path, tree, model, keep):
    ids = torch.arange(4, 24)[None]
    known = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        wanted = model.mllm.model.lm_head(model.mllm(ids, known))
    export(model, tmp_path / "out", keep_lora=keep)
    stock, info = InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert all(k.startswith(("grounding_", "text_hid", "heads.")) for k in info["unexpected_keys"])
    if keep:
        with torch.no_grad():
            assert (stock(input_ids=ids).logits - wanted).abs().max() > 0.05  # the base alone
        stock = PeftModel.from_pretrained(stock, tmp_path / "out" / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(stock(input_ids=ids).logits, wanted, atol=1e-4, rtol=1e-4)


def test_stock_processor_and_generation_config(tmp_path, tree, model):
    export(model, tmp_path / "out")
    tokenizer = model.mllm.tokenizer
    processor = InternVLProcessor.from_pretrained(tmp_path / "out")
    content = [{"type": "image"}, {"type": "text", "text": "segment red square ."}]
    text = processor.apply_chat_template([{"role": "user", "content": content}])
    image = np.ascontiguousarray(picture(1)[:, :20])  # square: one tile
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    wanted = prompt_ids(
        tokenizer, "<image>\nsegment red square .", "qwen_chat", image_tokens=4, name="test"
    )
    assert inputs["input_ids"][0].tolist() == wanted.tolist()
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert list(processor.image_processor.image_mean) == [0.485, 0.456, 0.406]
    said = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert said["eos_token_id"] == [tokenizer.get_vocab()["<|im_end|>"]]
    plain = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert plain.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize("system", [None, "be brief"])
def test_the_chat_template_writes_what_training_wrote(name, system):
    from projects.llava_sam2.hf.placeholder import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = jinja(TEMPLATES[name], tokenizer)
    turns = [("what is it ?", 'it\'s a "dog"'), ("and {this} ?", "a cat\n")]
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}]
        messages += [{"role": "assistant", "content": answer}]
    wanted = encode_conversation(tokenizer, turns, name, system=system).input_ids.tolist()
    assert tokenizer.apply_chat_template(messages)["input_ids"] == wanted


def test_shards_and_dtype(tmp_path, tree, model):
    export(model, tmp_path / "whole")
    report = export(model, tmp_path / "out", max_shard_size="300KB", dtype=torch.bfloat16)
    assert len(report.files) > 5 and all((tmp_path / "out" / f).is_file() for f in report.files)
    sizes = [(tmp_path / "out" / file).stat().st_size for file in report.files]
    assert max(sizes) < 330_000
    with safe_open(tmp_path / "out" / report.files[0], framework="pt") as opened:
        name = next(iter(opened.keys()))
        assert opened.get_tensor(name).dtype == torch.bfloat16
    whole, rounded = (sa2va_from_folder(path=tmp_path / n, dtype="auto") for n in ("whole", "out"))
    assert rounded.mllm.model.dtype == torch.bfloat16
    for (name, a), b in zip(whole.state_dict().items(), rounded.state_dict().values(), strict=True):
        assert torch.equal(a.to(torch.bfloat16).float(), b.float()), name


def test_a_bf16_language_model_answers_with_a_float32_sam(tmp_path, tree, model, clip):
    export(model, tmp_path / "out", ask=convert_to_hf.asked(tree))
    predictor = load(tmp_path / "out", dtype="bfloat16")
    assert predictor.model.grounding.dtype == torch.float32
    found = predictor.image(picture(7), QUESTIONS, forced=FORCED)
    wanted = asker(tree).predictor(model).image(picture(7), QUESTIONS, forced=FORCED)
    same(found, wanted, differing=0.1)


@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_auto_is_what_the_layers_are_stored_in_beside_trained_float32(
    tmp_path, tree, model, layout
):
    for parameter in model.mllm.parameters():
        if not parameter.requires_grad:  # as a run begins: frozen bfloat16, what trains float32
            parameter.data = parameter.data.to(torch.bfloat16)
    export(model, tmp_path / "out", layout=layout, ask=convert_to_hf.asked(tree))
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["dtype" if layout == "transformers" else "torch_dtype"] == "bfloat16"
    predictor = load(tmp_path / "out")
    assert {p.dtype for p in predictor.model.mllm.parameters()} == {torch.bfloat16}
    words = model.mllm.model.get_input_embeddings().weight
    assert words.dtype == torch.float32  # and no trained digit was lost in the file
    exact = sa2va_from_folder(path=tmp_path / "out", dtype="float32")
    assert torch.equal(exact.mllm.model.get_input_embeddings().weight, words)


# ---- the command ------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path, tree, model, monkeypatch):
    """A work dir with a checkpoint and scores, and the config read from nowhere."""
    work_dir = tmp_path / "run"
    folder = work_dir / "iter_7.pth"
    folder.mkdir(parents=True)
    names = checkpoints.names_to_save(model)
    weights = {name: model.state_dict()[name] for name in names}
    frozen = checkpoints.frozen_fingerprints(model)
    checkpoints.save_weights(weights, folder / "model.safetensors", frozen)
    (work_dir / "scores.json").write_text(json.dumps({"toy/cIoU": 0.625, "toy/cIoU[red]": 0.5}))
    monkeypatch.setattr(convert_to_hf, "load_config", lambda *a: tree)
    monkeypatch.setattr(convert_to_hf, "plain", lambda cfg: cfg)
    return folder


def test_the_command_converts_a_checkpoint(tmp_path, tree, model, clip, trained, capsys):
    out = tmp_path / "out"
    wanted = answers(asker(tree).predictor(model), clip)
    assert convert_to_hf.main(["toy.py", str(trained), str(out), "--keep-lora"]) == 0
    assert "adapter" in [p.name for p in out.iterdir()]
    same(answers(load(out), clip), wanted)
    card = (out / "README.md").read_text()
    assert "toy/cIoU | 0.6250" in card and "toy.py" in card and "kept in adapter/" in card
    assert 'load("out")' in card and "segment the red circle ." in card
    assert str(tmp_path) not in card and str(tmp_path) not in (out / "config.json").read_text()

    assert convert_to_hf.main(["toy.py", str(trained), str(out)]) == 1
    assert "exists; choose another name" in capsys.readouterr().err
    command = ["toy.py", str(trained), str(out), "--force", "--base-layout", "original"]
    assert convert_to_hf.main(command) == 0
    assert not (out / "adapter").exists()
    same(answers(load(out), clip), wanted, differing=0.002)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep-lora", "--base-layout", "original"], "merge LoRA"),
        (["--max-shard-size", "five"], "'five' is no size"),
    ],
)
def test_the_command_refuses(tmp_path, trained, capsys, options, message):
    assert convert_to_hf.main(["toy.py", str(trained), str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_checkpoint_and_another_models(tmp_path, trained, capsys):
    out = tmp_path / "out"
    assert convert_to_hf.main(["toy.py", str(tmp_path / "nowhere"), str(out)]) == 1
    assert "does not exist" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    checkpoints.save_weights({"a": torch.ones(2)}, other, {})
    assert convert_to_hf.main(["toy.py", str(other), str(out)]) == 1
    assert "unexpected" in capsys.readouterr().err and not out.exists()


def test_a_failure_leaves_nothing_and_an_old_export_as_it_was(tmp_path, model, monkeypatch):
    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr(writing, "write_processor", fail)
    out = tmp_path / "out"
    with pytest.raises(OSError, match="disk full"):
        export(model, out)
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    (out / "config.json").write_text("{}")
    with pytest.raises(OSError, match="disk full"):
        export(model, out, force=True)
    assert [p.name for p in out.iterdir()] == ["config.json"] and list(tmp_path.iterdir()) == [out]


def test_what_is_no_export_is_never_replaced(tmp_path, model):
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileExistsError, match="no export: not replaced"):
        export(model, tmp_path / "photos", force=True)


# ---- descriptions -----------------------------------------------------------------------------


def test_a_head_with_weights_needs_a_description(model):
    class Other(torch.nn.Linear):
        pass

    with pytest.raises(ValueError, match="'box' .Other. has weights and no description"):
        describe_heads({"box": Other(2, 2)})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("heads", "segment", "kind"), "os.system", "no head of the kind 'os.system'"),
        (("heads", "temporal", "layers"), 3, "head 'temporal'.*layers"),
        (("ask", "inputs", "tiles", "kind"), "Other", "no tiles of the kind 'Other'"),
        (("ask", "frames", "kind"), "eval", "no frames of the kind 'eval'"),
        (("policy", "memory_dtype"), "int99", "policy"),
        (("template",), "nobody", "chat template 'nobody'"),
        (("heads",), ["segment"], "config.json describes no model that can be built"),
        (("heads", "segment", "out"), -1, "describes no model that can be built"),
        (("policy",), "fast", "describes no model that can be built"),
        (("ask", "inputs"), {"template": "qwen_chat"}, "describes no model .* 'tiles'"),
        (("ask",), 3, "does not say how its model is asked"),
    ],
)
def test_a_changed_config_json_is_refused_not_run(tmp_path, tree, model, path, value, message):
    export(model, tmp_path / "out", ask=convert_to_hf.asked(tree))
    file = tmp_path / "out" / "config.json"
    said = json.loads(file.read_text())
    *parents, last = path
    inner = said["grounded"]
    for key in parents:
        inner = inner[key]
    inner[last] = value
    file.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "out")


@pytest.mark.parametrize("change", [{"r": None}, {"lora_alpha": "6"}, {"lora_dropout": []}])
def test_a_changed_adapter_is_refused(tmp_path, model, change):
    export(model, tmp_path / "out", keep_lora=True)
    file = tmp_path / "out" / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match="adapter_config.json: r, .* wanted are numbers"):
        sa2va_from_folder(path=tmp_path / "out")


def test_an_export_that_nobody_asked_says_so(tmp_path, model):
    export(model, tmp_path / "out")
    with pytest.raises(ValueError, match="does not say how its model is asked"):
        load(tmp_path / "out")


def test_concept_attention_of_a_head_makes_it_secs_layout(tmp_path, tree, model):
    head = ConceptHead(projector=seg_projector(hidden=32, out=64))
    head.start_from(model.grounding)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1)  # it is no copy of memory attention any more
    model.heads = torch.nn.ModuleDict({"concept": head})
    export(model, tmp_path / "out", layout="original")
    said = json.loads((tmp_path / "out/config.json").read_text())
    assert (said["architectures"], said["model_type"]) == (["SeCModel"], "sec")
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        named = [name for name in file.keys() if name.startswith("grounding_encoder.")]
    assert any(name.startswith("grounding_encoder.token_attn.") for name in named)
    assert not any("sam2_model" in name for name in named)
    again = sa2va_from_folder(path=tmp_path / "out", dtype="auto").heads["concept"]
    for name, tensor in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_sizes():
    assert [parse_size(s) for s in ("5GB", "200 mb", "7")] == [5 * 10**9, 2 * 10**8, 7]
    for text in ("0GB", "-1", "1TB", ""):
        with pytest.raises(ValueError, match="is no size"):
            parse_size(text)
