"""What a step holds: the count without contents, the log of the first steps, ZeRO's arithmetic."""

from __future__ import annotations

import json
import logging
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from projects.common.engine.fake_step import Ledger, fake_step, settle, without_contents
from projects.common.engine.hooks.first_steps import FirstStepsHook
from projects.common.engine.memory import (
    CARDS,
    GATHERED,
    Run,
    needs,
    training_bytes,
)
from projects.common.engine.memory_page import readable, table
from projects.common.engine.model import TrainableModel
from tests.engine import zero_bytes
from tests.engine.dummy import DummyBatch
from tests.engine.processes import run_tool
from tests.measured import measure_step

ADAMW = dict(type=torch.optim.AdamW, lr=0.1)


class Stack(TrainableModel):
    """Attention over 32 places, some layers of it recomputed, and a choice by what comes out."""

    def __init__(self, *, width: int = 64, layers: int = 4, recompute: bool = False) -> None:
        super().__init__()
        self.enter = nn.Linear(6, width).requires_grad_(False)
        self.layers = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.leave = nn.Linear(width, 1)
        self.register_buffer("place", torch.arange(32.0)[:, None], persistent=False)
        self.recompute = recompute

    def loss(self, batch):
        values = self.enter(batch.inputs)[:, None] + self.place
        for layer in self.layers:
            run = partial(self.layer, layer)
            values = checkpoint(run, values, use_reentrant=False) if self.recompute else run(values)
        chosen = values[batch.targets[:, 0] > 0]  # of a batch whose numbers are known
        score = self.leave(torch.cat([values, chosen]))
        return {"loss_value": score.clamp(min=-(score > 0).float().mean()).square().mean()}

    def layer(self, layer, values):
        query, key, value = layer(values).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return values + F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def batch(rows: int = 24) -> DummyBatch:
    targets = torch.where(torch.arange(rows) % 3 == 0, 1, -1)[:, None]
    return DummyBatch("sum", ["x"] * rows, torch.ones(rows, 6), targets)


def counted(device="cpu", **sizes):
    with torch.device("meta"):
        model = Stack(**sizes).train()
    with without_contents(device) as ledger:
        settle(model)
        return fake_step(model, batch, ledger)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("width", [64, 96])
def test_a_step_without_contents_counts_as_the_allocator_does(width, recompute):
    sizes = dict(width=width, recompute=recompute)
    held = counted(**sizes)
    forward, peak = measure_step(Stack(**sizes).train(), batch)
    assert held.forward == pytest.approx(forward, rel=0.02)
    assert held.peak == pytest.approx(peak, rel=0.1)


def test_recomputing_moves_bytes_from_forward_to_the_peak():
    plain, recomputed = counted(), counted(recompute=True)
    assert recomputed.forward < 0.5 * plain.forward
    assert recomputed.peak > recomputed.forward


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_flops_of_a_step_by_hand(device):
    """A x B times B x C takes 2ABC; attention is two products of every place with all."""
    tokens, width, layers = 24 * 32, 96, 3
    enter, leave = 2 * 24 * 6 * width, 2 * (24 + 8) * 32 * width
    linear = 2 * tokens * width * 3 * width
    scores = 2 * tokens * 32 * width
    forward = enter + layers * (linear + 2 * scores) + leave
    # gradients of inputs and of weights; what enters the first layer needs none, and is frozen
    backward = layers * (2 * linear + 4 * scores) - linear + 2 * leave
    plain = counted(device, width=width, layers=layers)
    assert (plain.flops, plain.recomputed) == (forward + backward, layers * scores)
    again = counted(device, width=width, layers=layers, recompute=True)
    assert again.flops == plain.flops
    assert again.recomputed == layers * scores + layers * (linear + 2 * scores)


def test_functions_of_torch_are_as_before_afterwards():
    before = F.scaled_dot_product_attention, F.layer_norm
    with pytest.raises(RuntimeError, match="out of it"), without_contents("cuda"):
        assert F.layer_norm is not before[1]
        raise RuntimeError("out of it")
    assert (F.scaled_dot_product_attention, F.layer_norm) == before


def test_a_storage_counts_once_and_until_it_is_gone():
    ledger = Ledger(block=512)
    tensor = torch.zeros(200)
    ledger.add(tensor)
    ledger.add(tensor[3:])
    assert ledger.live == 1024
    kept = tensor[:5]
    del tensor
    assert ledger.live == 1024
    del kept
    assert (ledger.live, ledger.peak) == (0, 1024)
    other = torch.zeros(200)
    ledger.forget(other)
    ledger.add(other)
    assert ledger.live == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_the_first_steps_are_logged_with_what_they_hold(compiled, caplog):
    model, graphs = Stack().train(), []
    if compiled:
        model.layer = torch.compile(model.layer, backend=partial(aot_eager, graphs))
    logger = logging.getLogger("first steps")
    runner = SimpleNamespace(iter=5, strategy=SimpleNamespace(module=model), logger=logger)
    expected, _ = measure_step(Stack().train(), batch)
    hook = FirstStepsHook(steps=2)
    hook.before_train(runner)
    with caplog.at_level(logging.INFO):
        for step in range(5, 9):
            data = {"batch": batch()}
            hook.before_train_iter(runner, step, data)
            losses = model(**data, mode="loss")
            model.parse_losses(losses)[0].backward()
            hook.after_train_iter(runner, step, data, losses)
    hook.after_train(runner)
    lines = [r.getMessage() for r in caplog.records if r.name == logger.name]
    assert [line.split(":")[0] for line in lines] == ["step 6 (sum)", "step 7 (sum)"]
    held = float(lines[0].split()[3]) * 2**20
    inputs = batch().inputs.nbytes + batch().targets.nbytes  # made before forward
    assert held == pytest.approx(expected - inputs, rel=0.02)
    assert not model._forward_hooks and not model._forward_pre_hooks
    # of the first layer, whose input needs no gradient, and of the others; none after the hook
    assert len(graphs) == (2 if compiled else 0)


def aot_eager(graphs: list, graph, inputs):
    """Forward and backward as compilers get them, run by torch's kernels."""
    graphs.append(graph)
    return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)


def needed(run: Run, model: nn.Module | None = None):
    return needs(model or Stack(), {}, run, optimizer=ADAMW, ema=False)


def test_what_is_moved_to_the_host_is_not_on_the_gpu():
    plain, moved = needed(Run(4, 3)), needed(Run(4, 3, "all"))
    assert moved.host == sum(plain.stays.values()) - sum(moved.stays.values()) > 0
    assert moved.stays["optimizer state"] == moved.stays["gradients"] == 0
    assert moved.stays["weights, buffers"] == Stack().place.nbytes
    assert plain.host == 0
    part = needed(Run(4, 2, "optimizer"))
    assert part.stays["weights, buffers"] == needed(Run(4, 2)).stays["weights, buffers"]
    with torch.device("meta"):
        large = nn.Linear(60_000, 50_000)
    assert needed(Run(8, 3), large).stays["gathered weights"] == pytest.approx(4 * GATHERED)


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "state", "own"),
    [
        (0, 10_000, 4000, 8000, None),
        (1, 10_000, 4000, 1000, 500),
        (2, 10_000, 500, 1000, 500),
        (3, 1250, 500, 1000, 500),
    ],
)
def test_stages_share_what_the_paper_says(stage, weights, gradients, state, own):
    """1000 float32 that train beside 3000 frozen bfloat16, Adam, eight GPUs."""
    model = nn.Module()
    model.tuned = nn.Linear(40, 25, bias=False)
    model.frozen = nn.Linear(60, 50, bias=False).bfloat16().requires_grad_(False)
    run = needed(Run(8, stage), model)
    expected = {"weights, buffers": weights, "gradients": gradients, "optimizer state": state}
    expected |= {} if own is None else {"own share, float32": own}
    assert {name: run.stays[name] for name in expected} == expected
    assert ("own share, float32" in run.stays) == (own is not None)
    share = 8 if stage == 3 else 1
    assert run.parts["tuned"]["weights"] == 4000 / share
    assert run.parts["frozen"]["weights"] == 6000 / share
    assert run.parts["tuned"]["gradients"] == gradients
    assert run.parts["frozen"]["gradients"] == run.parts["frozen"]["optimizer state"] == 0


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_holds_what_is_counted(stage, tmp_path):
    """On both of two ranks, by DeepSpeed's own tensors."""
    out = tmp_path / "held"
    run = run_tool(
        "tests.engine.zero_bytes", [f"deepspeed_zero{stage}", str(out)], out, processes=2
    )
    assert run.exit_codes == [0, 0], run.output
    counted = training_bytes(
        zero_bytes.build(), state_per_element=8, gpus=2, zero_stage=stage, ema=False
    )
    for rank in range(2):
        held = json.loads(out.with_name(f"held.{rank}").read_text())
        assert held == {name: counted[name] for name in held}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2), "0 GPUs: give their number"),
        ((8, 4), "stages 1, 2 and 3"),
        ((8, 2, "all"), "takes ZeRO-3"),
        ((8, 1, "optimizer"), "takes ZeRO-2 or 3"),
        ((8, 2, "disk"), "none of none, optimizer, all"),
    ],
)
def test_runs_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Run(*arguments)


def test_the_table_names_the_smallest_card():
    with torch.device("meta"):
        large = nn.Linear(50_000, 40_000)  # 8 GB of weights, as many gradients, twice that of Adam
    text = table(
        [("toy", [needed(Run(8, 2)), needed(Run(8, 3))]), ("large", [needed(Run(8, 2), large)] * 2)]
    )
    lines = text.splitlines()
    assert lines[0].startswith("| config | parameters | trained | activations | ZeRO-2 on 8: sum")
    assert "(24 GB)" in lines[2] and "2,000 M" in lines[3]
    assert needed(Run(1), large).fits("40 GB") and not needed(Run(1), large).fits("24 GB")
    assert list(CARDS) == ["80 GB", "40 GB", "24 GB"] and readable(3 * 2**29) == "1.50 GiB"
