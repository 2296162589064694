"""Folders in InternVL's original layout, and its arithmetic in plain torch on their tensors.

Written from the papers and the layout of the files, not from the code under test: InternViT
(pre-norm, fused qkv, layer scale), pixel shuffle v2, the projector, and a decoder with grouped
queries whose weights lie as InternLM2's (fused wqkv) or Qwen2's do.
"""

from __future__ import annotations

import json
import math

import sentencepiece
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

IMAGE_TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>"]
TEXT = [
    "the red circle left of the blue square",
    "it is the one that moves to the right",
    "please segment the object described here",
    "<|im_start|>user assistant system",
    "A picture, a video; 12 frames: what, where & when?",
]


def numbers(language: str, vision: str, **changes):
    """config.json of a small model of one family each."""
    is_qwen, is_large = language == "qwen2", vision == "6b"
    config = {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "downsample_ratio": 0.5,
        "force_image_size": 56,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "vision_config": {
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "norm_type": "rms_norm" if is_large else "layer_norm",
            "qk_normalization": is_large,
            "qkv_bias": not is_large,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "initializer_factor": 1.0,
            "drop_path_rate": 0.1,
            "image_size": 56,
            "patch_size": 14,
        },
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM" if is_qwen else "InternLM2ForCausalLM"],
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_act": "silu",
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6 if is_qwen else 1e-5,
            "rope_theta": 1_000_000.0,
            "rope_scaling": None if is_qwen else {"type": "dynamic", "factor": 2.0},
            "tie_word_embeddings": False,
            "vocab_size": None,
        },
    }
    return config | changes


# ---- tensors ----------------------------------------------------------------------


def shapes(config) -> dict[str, tuple[int, ...]]:
    """Every tensor of the original layout with its shape."""
    vit, llm = config["vision_config"], config["llm_config"]
    wide, patches = vit["hidden_size"], (vit["image_size"] // vit["patch_size"]) ** 2
    found = {
        "vision_model.embeddings.class_embedding": (1, 1, wide),
        "vision_model.embeddings.position_embedding": (1, patches + 1, wide),
        "vision_model.embeddings.patch_embedding.weight": (wide, 3, *[vit["patch_size"]] * 2),
        "vision_model.embeddings.patch_embedding.bias": (wide,),
        "mlp1.0.weight": (4 * wide,),
        "mlp1.0.bias": (4 * wide,),
        "mlp1.1.weight": (llm["hidden_size"], 4 * wide),
        "mlp1.1.bias": (llm["hidden_size"],),
        "mlp1.3.weight": (llm["hidden_size"], llm["hidden_size"]),
        "mlp1.3.bias": (llm["hidden_size"],),
    }
    for layer in range(vit["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{layer}."
        found |= {
            at + "ls1": (wide,),
            at + "ls2": (wide,),
            at + "norm1.weight": (wide,),
            at + "norm2.weight": (wide,),
            at + "attn.qkv.weight": (3 * wide, wide),
            at + "attn.proj.weight": (wide, wide),
            at + "attn.proj.bias": (wide,),
            at + "mlp.fc1.weight": (vit["intermediate_size"], wide),
            at + "mlp.fc1.bias": (vit["intermediate_size"],),
            at + "mlp.fc2.weight": (wide, vit["intermediate_size"]),
            at + "mlp.fc2.bias": (wide,),
        }
        if vit["norm_type"] == "layer_norm":
            found |= {at + "norm1.bias": (wide,), at + "norm2.bias": (wide,)}
        if vit["qkv_bias"]:
            found |= {at + "attn.qkv.bias": (3 * wide,)}
        if vit["qk_normalization"]:
            found |= {at + "attn.q_norm.weight": (wide,), at + "attn.k_norm.weight": (wide,)}
    is_qwen = llm["architectures"][0].startswith("Qwen2")
    return found | (_qwen2_shapes(llm) if is_qwen else _internlm2_shapes(llm))


def _qwen2_shapes(llm):
    wide, inner, vocabulary = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
    narrow = wide // llm["num_attention_heads"] * llm["num_key_value_heads"]
    found = {
        "language_model.model.embed_tokens.weight": (vocabulary, wide),
        "language_model.model.norm.weight": (wide,),
    }
    if not llm["tie_word_embeddings"]:
        found["language_model.lm_head.weight"] = (vocabulary, wide)
    for layer in range(llm["num_hidden_layers"]):
        at = f"language_model.model.layers.{layer}."
        found |= {
            at + "input_layernorm.weight": (wide,),
            at + "post_attention_layernorm.weight": (wide,),
            at + "self_attn.q_proj.weight": (wide, wide),
            at + "self_attn.q_proj.bias": (wide,),
            at + "self_attn.k_proj.weight": (narrow, wide),
            at + "self_attn.k_proj.bias": (narrow,),
            at + "self_attn.v_proj.weight": (narrow, wide),
            at + "self_attn.v_proj.bias": (narrow,),
            at + "self_attn.o_proj.weight": (wide, wide),
            at + "mlp.gate_proj.weight": (inner, wide),
            at + "mlp.up_proj.weight": (inner, wide),
            at + "mlp.down_proj.weight": (wide, inner),
        }
    return found


def _internlm2_shapes(llm):
    wide, inner, vocabulary = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
    heads, kv = llm["num_attention_heads"], llm["num_key_value_heads"]
    found = {
        "language_model.model.tok_embeddings.weight": (vocabulary, wide),
        "language_model.model.norm.weight": (wide,),
        "language_model.output.weight": (vocabulary, wide),
    }
    for layer in range(llm["num_hidden_layers"]):
        at = f"language_model.model.layers.{layer}."
        found |= {
            at + "attention_norm.weight": (wide,),
            at + "ffn_norm.weight": (wide,),
            at + "attention.wqkv.weight": ((heads + 2 * kv) * (wide // heads), wide),
            at + "attention.wo.weight": (wide, wide),
            at + "feed_forward.w1.weight": (inner, wide),
            at + "feed_forward.w2.weight": (wide, inner),
            at + "feed_forward.w3.weight": (inner, wide),
        }
    return found


def random_state(config, seed=0):
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(config).items():
        values = torch.randn(shape, generator=draw)
        if "norm" in name or name.startswith("mlp1.0") or name.endswith(("ls1", "ls2")):
            values = values * 0.2 + (0 if name.endswith("bias") else 1)
        elif len(shape) > 1 and "embed" not in name:
            values = values / math.sqrt(math.prod(shape[1:])) * 1.5
        state[name] = values
    return state


def write_folder(folder, config, state, *, shards=3):
    """config.json and shards with an index, cut anywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = list(state)
    size = -(-len(names) // shards)
    places = {}
    for number in range(shards):
        part = names[number * size : (number + 1) * size]
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file({name: state[name].contiguous() for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


# ---- tokenizers ----------------------------------------------------------------------


def write_qwen2_tokenizer(folder, extra=()):
    """vocab.json, merges.txt and the json files beside them; returns the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    merges = ["t h", "th e", "Ġ the", "r e", "re d"]
    vocabulary = [*letters, *(merge.replace(" ", "") for merge in merges)]
    (folder / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *IMAGE_TOKENS, *extra]
    ids = {token: len(vocabulary) + n for n, token in enumerate(added)}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    decoder = {str(n): {"content": t, "special": True} for t, n in ids.items()}
    described = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": decoder,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": added[1:],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return len(vocabulary) + len(added)


def write_internlm2_tokenizer(folder, extra=()):
    """A sentencepiece model whose last pieces stand in for the tokens of a chat."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT * 20),
            model_writer=file,
            vocab_size=420,
            model_type="bpe",
            byte_fallback=True,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            user_defined_symbols=["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"],
            minloglevel=2,
        )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    count = pieces.get_piece_size()
    chat = {
        pieces.piece_to_id("[UNUSED_TOKEN_145]"): "<|im_end|>",
        pieces.piece_to_id("[UNUSED_TOKEN_146]"): "<|im_start|>",
    }
    added = {token: count + n for n, token in enumerate([*IMAGE_TOKENS, *extra])}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    decoder = chat | {number: token for token, number in added.items()}
    described = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": {
            str(n): {"content": t, "special": True} for n, t in decoder.items()
        },
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return count + len(added)


# ---- arithmetic ----------------------------------------------------------------------


def rms(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def visual_tokens(state, config, pixels):
    """uint8 [N, 3, S, S] to [N, V, D]."""
    vit = config["vision_config"]
    heads, eps = vit["num_attention_heads"], vit["layer_norm_eps"]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (pixels / 255.0 - mean[:, None, None]) / std[:, None, None]
    at = "vision_model.embeddings."
    x = F.conv2d(
        x,
        state[at + "patch_embedding.weight"],
        state[at + "patch_embedding.bias"],
        stride=vit["patch_size"],
    )
    side = x.shape[-1]
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([state[at + "class_embedding"].expand(len(x), -1, -1), x], dim=1)
    x = x + state[at + "position_embedding"]

    def norm(name, value):
        if vit["norm_type"] == "rms_norm":
            return rms(value, state[f"{name}.weight"], eps)
        width = value.shape[-1:]
        return F.layer_norm(value, width, state[f"{name}.weight"], state[f"{name}.bias"], eps)

    for layer in range(vit["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{layer}."
        q, k, v = linear(state, at + "attn.qkv", norm(at + "norm1", x)).chunk(3, dim=-1)
        if vit["qk_normalization"]:
            q = rms(q, state[at + "attn.q_norm.weight"], eps)
            k = rms(k, state[at + "attn.k_norm.weight"], eps)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        attended = linear(state, at + "attn.proj", (weights @ v).transpose(1, 2).flatten(2))
        x = x + state[at + "ls1"] * attended
        hidden = F.gelu(linear(state, at + "mlp.fc1", norm(at + "norm2", x)))
        x = x + state[at + "ls2"] * linear(state, at + "mlp.fc2", hidden)

    grid = x[:, 1:].unflatten(1, (side, side))  # row, column
    # pixel shuffle v2: one token for 2 x 2 patches, read row by row, four patches one after another
    tokens = torch.stack(
        [
            torch.cat([grid[:, 2 * r + i, 2 * c + j] for i in (0, 1) for j in (0, 1)], dim=-1)
            for r in range(side // 2)
            for c in range(side // 2)
        ],
        dim=1,
    )
    tokens = F.layer_norm(tokens, tokens.shape[-1:], state["mlp1.0.weight"], state["mlp1.0.bias"])
    return linear(state, "mlp1.3", F.gelu(linear(state, "mlp1.1", tokens)))


def language(state, config, embeddings):
    """Embeddings [L, D] of one sequence to (hidden [L, D], logits [L, vocabulary])."""
    llm = config["llm_config"]
    heads, kv, eps = llm["num_attention_heads"], llm["num_key_value_heads"], llm["rms_norm_eps"]
    d, length = llm["hidden_size"] // heads, len(embeddings)
    is_qwen = llm["architectures"][0].startswith("Qwen2")
    base = llm["rope_theta"]
    if llm["rope_scaling"] is not None and length > llm["max_position_embeddings"]:
        factor = llm["rope_scaling"]["factor"]  # dynamic NTK
        stretch = factor * length / llm["max_position_embeddings"] - (factor - 1)
        base = base * stretch ** (d / (d - 2))
    angles = torch.arange(length)[:, None] / base ** (torch.arange(0, d, 2) / d)
    cos, sin = (torch.cat([f(angles)] * 2, dim=-1)[:, None] for f in (torch.cos, torch.sin))

    def rotate(t):  # [L, heads, d]
        first, second = t.chunk(2, dim=-1)
        return t * cos + torch.cat([-second, first], dim=-1) * sin

    causal = torch.full((length, length), float("-inf")).triu(1)
    x = embeddings
    for layer in range(llm["num_hidden_layers"]):
        at = f"language_model.model.layers.{layer}."
        if is_qwen:
            h = rms(x, state[at + "input_layernorm.weight"], eps)
            q = linear(state, at + "self_attn.q_proj", h).unflatten(1, (heads, d))
            k = linear(state, at + "self_attn.k_proj", h).unflatten(1, (kv, d))
            v = linear(state, at + "self_attn.v_proj", h).unflatten(1, (kv, d))
        else:
            h = rms(x, state[at + "attention_norm.weight"], eps)
            fused = linear(state, at + "attention.wqkv", h)
            fused = fused.unflatten(1, (kv, heads // kv + 2, d))  # each kv head with its queries
            q, k, v = fused[:, :, :-2].flatten(1, 2), fused[:, :, -2], fused[:, :, -1]
        q, k = rotate(q), rotate(k)
        rows = []
        for head in range(heads):
            of = head // (heads // kv)
            weights = (q[:, head] @ k[:, of].T / math.sqrt(d) + causal).softmax(-1)
            rows.append(weights @ v[:, of])
        out = "self_attn.o_proj" if is_qwen else "attention.wo"
        x = x + linear(state, at + out, torch.cat(rows, dim=-1))
        norm = "post_attention_layernorm" if is_qwen else "ffn_norm"
        gate, up, down = (
            ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
            if is_qwen
            else ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2")
        )
        h = rms(x, state[f"{at}{norm}.weight"], eps)
        inner = F.silu(linear(state, at + gate, h)) * linear(state, at + up, h)
        x = x + linear(state, at + down, inner)
    hidden = rms(x, state["language_model.model.norm.weight"], eps)
    return hidden, hidden @ head_table(state).T


def embedding_table(state):
    for name in ("embed_tokens", "tok_embeddings"):
        if f"language_model.model.{name}.weight" in state:
            return state[f"language_model.model.{name}.weight"]


def head_table(state):
    for name in ("lm_head", "output"):
        if f"language_model.{name}.weight" in state:
            return state[f"language_model.{name}.weight"]
    return embedding_table(state)


def with_rows(table, count):
    """New words start as the mean of the old ones."""
    more = table.mean(0, keepdim=True).expand(count - len(table), -1)
    return torch.cat([table, more])
