"""Windows that the map's border cuts, against transformers' blocks, which pad the map."""

from __future__ import annotations

import pytest
import torch
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig
from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleBlock

from projects.sam2_video.modeling.hiera import run_block
from tools.bench.common import saved_tensors

WINDOW, POOLED_WINDOW = 6, 4


@pytest.fixture(scope="module")
def blocks() -> dict[str, Sam2MultiScaleBlock]:
    """A block of each kind, with biases: with none, padding would be easy."""
    config = Sam2HieraDetConfig(
        hidden_size=8,
        blocks_per_stage=[1, 2],
        embed_dim_per_stage=[8, 16],
        num_attention_heads_per_stage=[1, 2],
        window_size_per_stage=[POOLED_WINDOW, WINDOW],
        global_attention_blocks=[],
        num_query_pool_stages=1,
        attn_implementation="sdpa",
    )
    places = {"pooled": (1, 0, 1), "plain": (1, 1, 2)}  # stage, block of it, block of all
    torch.manual_seed(0)
    built = {
        name: Sam2MultiScaleBlock(config, stage, number, total)
        for name, (stage, number, total) in places.items()
    }
    for block in built.values():
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    assert built["pooled"].query_stride and not built["plain"].query_stride
    return built


def gradients(block, run, hidden):
    hidden = hidden.clone().requires_grad_()
    out = run(hidden)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return out, torch.autograd.grad((out * weights).sum(), [hidden, *block.parameters()])


@pytest.mark.parametrize("size", [(6, 6), (8, 8), (4, 14), (12, 10), (2, 3)])
def test_a_plain_block(blocks, size):
    check(blocks["plain"], torch.randn(2, *size, 16, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("size", [(4, 4), (6, 6), (2, 10), (8, 14)])
def test_a_block_that_pools_its_queries(blocks, size):
    check(blocks["pooled"], torch.randn(2, *size, 8, generator=torch.Generator().manual_seed(1)))


def check(block, hidden):
    theirs, their_gradients = gradients(block, block, hidden)
    ours, our_gradients = gradients(block, lambda h: run_block(block, h), hidden)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())
    with torch.no_grad():  # padded
        torch.testing.assert_close(run_block(block, hidden), theirs, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_padded_as_without_gradient(blocks):
    """A count's logarithm would be rounded there: the numbers of both ways must be the same."""
    block, hidden = blocks["plain"], torch.randn(1, 8, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        trained = run_block(block, hidden)
        with torch.no_grad():
            assert torch.equal(run_block(block, hidden), trained)


def test_padding_is_not_held_for_backward(blocks):
    block = blocks["plain"]
    held = []
    for size in (6, 7):  # one whole window; four, whose padded map would have four times the places
        hidden = torch.randn(4, size, size, 16)
        with saved_tensors(ignore=list(block.parameters())) as bytes_held:
            run_block(block, hidden)
        held.append(bytes_held.value)
    assert held[1] < 1.8 * held[0]
