"""A training step of the language model against the straightforward way, on the same weights.

Straightforward: logits of all positions, hidden states of all layers, the vision tower under
autograd. Ours: logits at supervised positions in chunks that are recomputed, the last layer's
hidden states alone, a frozen vision tower without autograd. The losses must be equal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor

import projects  # noqa: F401  (compatibility lines first)
from projects.llava_sam2.hf.placeholder import byte_tokenizer
from projects.llava_sam2.models.mllm import InternVL
from projects.llava_sam2.structures import IGNORE_INDEX
from tools.bench import common

Batch = tuple[Tensor, Tensor, Tensor]  # input_ids [1, L], labels [1, L], pixel_values [N, 3, H, H]


def build(arguments: argparse.Namespace) -> InternVL:
    """InternVL on Qwen2 of the asked sizes, with random weights."""
    from transformers import (
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLVisionConfig,
        Qwen2Config,
    )

    torch.manual_seed(0)
    width, layers = arguments.width, arguments.layers
    heads = max(2, width // 64)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            image_size=[448, 448],
            patch_size=[14, 14],
        ),
        text_config=Qwen2Config(
            vocab_size=arguments.vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=32768,
            tie_word_embeddings=False,
        ),
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config)
    mllm = InternVL(model=model, tokenizer=byte_tokenizer(), template="qwen_chat")
    mllm.model.config.image_token_id = mllm.image_id
    return mllm.to(arguments.device).train()


def make_batch(mllm: InternVL, arguments: argparse.Namespace, answer: int) -> Batch:
    """One conversation: tiles, text, and an answer of so many tokens at its end."""
    draw = torch.Generator().manual_seed(1)
    visual = arguments.tiles * mllm.image_tokens_per_tile
    text = torch.randint(0, 250, (arguments.tokens - visual,), generator=draw)
    ids = torch.cat([torch.full((visual,), mllm.image_id), text])
    labels = torch.where(torch.arange(len(ids)) >= len(ids) - answer, ids, IGNORE_INDEX)
    side = mllm.tile_size
    pixels = torch.randint(
        0, 256, (arguments.tiles, 3, side, side), dtype=torch.uint8, generator=draw
    )
    return ids[None].to(mllm.device), labels[None].to(mllm.device), pixels.to(mllm.device)


def ours(mllm: InternVL, batch: Batch) -> Tensor:
    ids, labels, pixels = batch
    mllm.model.model.vision_tower.requires_grad_(False)
    hidden = mllm(ids, torch.ones_like(ids, dtype=torch.bool), pixels)
    return mllm.language_loss(hidden, labels)


def straightforward(mllm: InternVL, batch: Batch) -> Tensor:
    ids, labels, pixels = batch
    mllm.model.model.vision_tower.requires_grad_(True)
    outputs = mllm.model(
        input_ids=ids,
        pixel_values=(pixels.float() / 255 - mllm.mean) / mllm.std,
        output_hidden_states=True,
        use_cache=False,
    )
    wanted = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)  # cutting logits would copy them
    logits = outputs.logits.float().flatten(0, 1)
    return F.cross_entropy(logits, wanted.flatten(), ignore_index=IGNORE_INDEX)


def step(mllm: InternVL, way: Any, batch: Batch) -> Tensor:
    mllm.zero_grad(set_to_none=True)
    loss = way(mllm, batch)
    loss.backward()
    return loss.detach()


def held(mllm: InternVL, way: Any, batch: Batch, device: str) -> tuple[int, int]:
    """Bytes that autograd holds for backward, and the peak of a step above its start."""
    mllm.zero_grad(set_to_none=True)
    with common.saved_tensors(ignore=[*mllm.parameters(), *batch]) as saved:
        loss = way(mllm, batch)
    del loss
    with common.peak_memory(device) as peak:
        step(mllm, way, batch)
    return saved.value, peak.value


def compare(mllm: InternVL, arguments: argparse.Namespace, answer: int) -> dict[str, Any]:
    batch = make_batch(mllm, arguments, answer)
    losses = [float(step(mllm, way, batch)) for way in (ours, straightforward)]
    if abs(losses[0] - losses[1]) > 1e-3 * abs(losses[1]):
        raise RuntimeError(f"the two ways differ: losses {losses}")
    memory = [held(mllm, way, batch, arguments.device) for way in (ours, straightforward)]
    pairs = common.run_pairs(
        lambda: step(mllm, ours, batch),
        lambda: step(mllm, straightforward, batch),
        repeats=arguments.repeats,
        warmup=0,  # both have run
        clock=arguments.clock,
    )
    times = pairs.summary(second="plain")
    row = {
        "tokens": arguments.tokens,
        "supervised": answer,
        "tokens_per_s": arguments.tokens / times["ours_s"],
        "plain_tokens_per_s": arguments.tokens / times["plain_s"],
        "time_ratio": times["ratio"],
        "activations_MB": memory[0][0] / 2**20,
        "plain_activations_MB": memory[1][0] / 2**20,
        "peak_MB": memory[0][1] / 2**20,
        "plain_peak_MB": memory[1][1] / 2**20,
    }
    common.log_row(row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=128, help="of language model and vision")
    parser.add_argument("--layers", type=int, default=4, help="of both")
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--tokens", type=int, default=4096, help="visual ones included")
    parser.add_argument("--tiles", type=int, default=12)
    parser.add_argument("--answers", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--clock", choices=common.CLOCKS, default="cpu")
    common.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        arguments.clock = "wall"
    common.start(arguments)
    mllm = build(arguments)
    rows = [compare(mllm, arguments, answer) for answer in arguments.answers]
    settings = {key: getattr(arguments, key) for key in ("width", "layers", "vocabulary", "tiles")}
    settings |= {"clock": arguments.clock, "repeats": arguments.repeats}
    common.report(
        "language step", rows, output=arguments.output, device=arguments.device, settings=settings
    )


if __name__ == "__main__":
    main()
