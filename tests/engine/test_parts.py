"""The engine's small parts, each against numbers computed another way."""

from __future__ import annotations

import json
import logging
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from projects.common.engine import checkpoints
from projects.common.engine.benchmarks import SpreadItems
from projects.common.engine.best import Best
from projects.common.engine.check import check_config
from projects.common.engine.config import load_config, plain
from projects.common.engine.ema import Ema
from projects.common.engine.interval import Every
from projects.common.engine.memory import checkpoint_bytes, training_bytes
from projects.common.engine.optim import TrainableGroups
from projects.common.engine.resume import _compare_mixtures
from projects.common.engine.seeding import undisturbed_randomness
from projects.common.engine.watchdog import Watchdog
from projects.common.samplers import StepBatchSampler
from tests.engine.dummy import DummyModel
from tests.engine.processes import CONFIG


@pytest.mark.parametrize(
    ("epoch", "phases", "accumulate"),
    [("27/4", 2, 1), ("45/2", 3, 4), ("10", 5, 2), ("9/8", 1, 1), ("7/3", 1, 2), ("9", 1, 4)],
)
def test_phases_end_with_the_step_that_completes_them(epoch, phases, accumulate):
    every = Every(
        "phase",
        epoch_steps=Fraction(epoch),
        phases_per_epoch=phases,
        multiple_of=accumulate,
    )
    ends = [step for step in range(1, 200) if every.due(step)]
    for number, end in enumerate(ends, start=1):
        done = Fraction(number, phases) * Fraction(epoch)  # steps of so many phases
        assert done <= end < done + accumulate and end % accumulate == 0
    assert len(ends) >= (199 - accumulate) // (Fraction(epoch) / phases)  # none is left out


def test_rhythms_that_are_none():
    assert [s for s in range(1, 10) if Every(3, epoch_steps=Fraction(5)).due(s)] == [3, 6, 9]
    for interval, words in (("week", "'phase' or 'epoch'"), (0, "at least 1")):
        with pytest.raises(ValueError, match=words):
            Every(interval, epoch_steps=Fraction(5))
    with pytest.raises(ValueError, match="a phase is 0.50 steps long.*phases_per_epoch"):
        Every("phase", epoch_steps=Fraction(5), phases_per_epoch=10)


def test_patience_counts_gains_that_are_too_small_but_the_best_is_the_best():
    best = Best(metric="a/score", patience=3, min_delta=0.1)
    news = [best.update({"a/score": s}, n) for n, s in enumerate([0.5, 0.55, 0.58, 0.61], 1)]
    assert news == [True] * 4 and (best.value, best.step) == (0.61, 4)
    assert not best.exhausted and best.waited == 0  # 0.61 beats 0.5 by more than 0.1
    for step, score in enumerate([0.6, float("nan"), 0.62], start=5):
        best.update({"a/score": score}, step)
    assert best.exhausted and (best.value, best.step) == (0.62, 7)
    resumed = Best(metric="a/score", patience=4, min_delta=0.1)
    assert resumed.restore(json.loads(json.dumps(best.state())))
    assert resumed.waited == 3 and not resumed.exhausted  # the config's patience counts
    other = Best(metric="b/score")
    assert not other.restore(best.state()) and other.value is None
    with pytest.raises(ValueError, match="'b/score' is no score.*choose one of a/score"):
        other.update({"a/score": 1.0}, 1)


def test_a_lower_error_is_better():
    best = Best(metric="a/error", higher_is_better=False, patience=1)
    assert [best.update({"a/error": e}, n) for n, e in enumerate([3.0, 2.0, 2.0])] == [1, 1, 0]
    assert best.exhausted and best.value == 2.0


def test_averages_follow_their_definition(tmp_path):
    torch.manual_seed(0)
    model = DummyModel()
    ema = Ema(model, decay=0.9, warmup=4)
    expected = model.head.weight.detach().double().numpy().copy()
    for update in range(1, 40):
        with torch.no_grad():
            model.head.weight += torch.randn_like(model.head.weight)
        ema.update()
        decay = min(0.9, (1 + update) / (4 + update))
        expected = decay * expected + (1 - decay) * model.head.weight.detach().double().numpy()
    np.testing.assert_allclose(ema.averages["head.weight"].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert "frozen.weight" not in ema.averages and "scale" not in ema.averages

    own, address = model.head.weight.clone(), model.head.weight.data_ptr()
    with pytest.raises(KeyError), ema.applied():
        assert torch.equal(model.head.weight, ema.averages["head.weight"])
        raise KeyError
    assert torch.equal(model.head.weight, own) and model.head.weight.data_ptr() == address

    names = checkpoints.names_to_save(model)
    weights = {name: model.state_dict()[name] for name in names}
    checkpoints.save_weights(ema.saved_tensors(weights), tmp_path / "ema.safetensors", {})
    other = Ema(DummyModel(), decay=0.9)
    other.load(tmp_path / "ema.safetensors", ema.updates)
    assert other.updates == 39
    assert all(torch.equal(other.averages[name], ema.averages[name]) for name in ema.averages)


def test_what_is_drawn_inside_leaves_no_trace():
    def draw() -> tuple:
        return torch.rand(2).tolist(), np.random.rand(2).tolist()

    torch.manual_seed(1), np.random.seed(1)
    expected = [draw(), draw()]
    torch.manual_seed(1), np.random.seed(1)
    first = draw()
    with pytest.raises(OSError), undisturbed_randomness():
        draw()
        raise OSError
    assert [first, draw()] == expected


class Squares:
    def __len__(self) -> int:
        return 100

    def predict(self, model, index: int) -> list[dict]:
        return [{"square": index**2}]

    def summarise(self, records) -> dict[str, float]:
        return {"sum": sum(r["square"] for r in records)}


def test_some_items_stand_for_all():
    few = SpreadItems(benchmark=Squares(), count=3)
    records = [few.predict(None, index)[0] for index in range(len(few))]
    assert records == [{"square": 0}, {"square": 50**2}, {"square": 99**2}]
    assert not hasattr(few, "fingerprint")  # else an interrupted one would go on with others
    assert len(SpreadItems(benchmark=Squares(), count=1000)) == 100


def test_the_watchdog_names_what_hangs_once():
    reports = []
    told, slow = threading.Event(), threading.Event()

    class Handler(logging.Handler):
        def emit(self, record) -> None:
            reports.append(record.getMessage())
            told.set()

    logger = logging.Logger("test")
    logger.addHandler(Handler())
    watchdog = Watchdog(minutes=0.02 / 60, logger=logger)
    try:
        with watchdog.watching("computing step 7", lambda: "samples ['clip_3']"):
            assert told.wait(300)
            slow.wait(0.2)
    finally:
        watchdog.close()
    assert len(reports) == 1
    assert "rank 0 has been computing step 7" in reports[0] and "['clip_3']" in reports[0]
    assert "slow.wait(0.2)" in reports[0] or "told.wait(300)" in reports[0]  # where it is


def test_a_resumed_run_sees_the_sizes_of_each_dataset():
    def mixture(**changes) -> list[dict]:
        settings = dict(
            lengths=[12, 10], repeats=[1.0, 1.5], tasks=["a", "b"], batch_size=4, seed=0
        )
        sampler = StepBatchSampler(max_steps=9, world_size=2, **{**settings, **changes})
        return json.loads(json.dumps(sampler.mixture))

    assert _compare_mixtures(mixture(), mixture(), "folder") == ""
    news = _compare_mixtures(mixture(), mixture(batch_sizes=[4, 3]), "folder")
    assert "dataset 1: global_batch 8 is now 6" in news and "dataset 0" not in news
    assert "repeat 1.5 is now 2.0" in _compare_mixtures(
        mixture(), mixture(repeats=[1.0, 2.0]), "folder"
    )


def test_memory_is_what_is_held():
    model = DummyModel(width=64)
    trainable = 64 * 64 + 64 + 64 + 1
    frozen = 6 * 64 + 64
    numbers = dict(state_per_element=8, ema=True)
    single = training_bytes(model, gpus=1, zero_stage=0, **numbers)
    assert single == {
        "weights, buffers": 4 * (trainable + frozen + 1),
        "gradients": 4 * trainable,
        "optimizer state": 8 * trainable,
        "average": 4 * trainable,
    }
    zero2 = training_bytes(model, gpus=8, zero_stage=2, **numbers)
    assert zero2["optimizer state"] == trainable
    assert zero2["gradients"] == round(trainable / 2) == zero2["own share, float32"]
    assert zero2["gradient buckets"] == 8 * trainable
    zero3 = training_bytes(model, gpus=8, zero_stage=3, **numbers)
    assert zero3["weights, buffers"] == round((trainable + frozen) / 2 + 4)
    # weights and average, both with the buffer, and two moments
    size = checkpoint_bytes(model, zero_stage=0, **numbers)
    assert size == 4 * 2 * (trainable + 1) + 8 * trainable


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        self.neck = nn.Linear(2, 2)
        self.head = nn.ModuleDict({"mask": nn.Linear(2, 2), "score": nn.Linear(2, 2)})


def test_groups_are_named_after_what_learns_at_their_rate():
    custom = {
        "blocks.0": {"lr_mult": 0.5},
        "blocks.1": {"lr_mult": 0.7},
        "head": {"lr_mult": 2.0},
        "neck.bias": {"decay_mult": 0.0},
    }
    config = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 0.1, "weight_decay": 1.0},
    }
    optimizer = TrainableGroups(config, {"custom_keys": custom})(Trunk()).optimizer
    rates = {(group["name"], round(group["lr"], 3)) for group in optimizer.param_groups}
    assert rates == {("blocks.0", 0.05), ("blocks.1", 0.07), ("neck", 0.1), ("head", 0.2)}
    assert len(optimizer.param_groups) == 5  # neck without and with decay share a name
    single = TrainableGroups(config, None)(Trunk()).optimizer
    assert [group["name"] for group in single.param_groups] == ["all"]


MISTAKES = {
    "validation.interval=week": "validation.interval: 'week' is no number of steps",
    "validation.benchmarks=['held_in']": "held_in chosen, the config's benchmarks are held_out",
    "validation.best=held_in/error": "'held_in/error' is no '<benchmark>/<metric>' of held_out",
    "validation.best=held_out/eror": "'held_out/eror' is no score of this benchmark, which gives "
    "held_out/error",
    "validation.best=held_out": "'held_out' is no score of this benchmark",
    "validation.patience=2": "validation.patience: needs validation.best",
    "validation.max_items=0": "validation.max_items: 0",
    "validation.patients=2": "validation.patients: unknown key, did you mean 'patience'?",
    "ema.decay=1.5": "ema: decay 1.5 must lie in (0, 1)",
    "watchdog.minutes=0": "watchdog.minutes: 0 must be positive",
    "on_bad_loss=ignore": "on_bad_loss: 'ignore' is none of stop, skip",
    "train_cfg.phases_per_epoch=0": "train_cfg.phases_per_epoch: 0",
    "checkpoint.interval=0": "checkpoint.interval: 0 is no number of steps",
}


def tree(*options: str) -> dict:
    pairs = (option.split("=", 1) for option in options)
    values = {key: yaml_value(value) for key, value in pairs}
    return plain(load_config(CONFIG, values))


def yaml_value(text: str):
    try:
        return json.loads(text.replace("'", '"'))
    except json.JSONDecodeError:
        return text


@pytest.mark.parametrize("option", MISTAKES)
def test_mistakes_are_found_before_anything_is_built(option):
    with pytest.raises(ValueError, match="the config has 1 mistake") as caught:
        check_config(tree(option))
    assert MISTAKES[option] in str(caught.value)


def test_zero_3_refuses_what_needs_the_whole_model():
    config = tree("validation.interval=4", "ema.decay=0.9")
    check_config(config, zero_stage=2)
    with pytest.raises(ValueError, match="2 mistakes") as caught:
        check_config(config, zero_stage=3)
    assert "validation: not with ZeRO-3" in str(caught.value)


def test_the_default_interval_must_fit_the_accumulation_too():
    config = tree("optim_wrapper.accumulative_counts=16")
    del config["checkpoint"]
    with pytest.raises(ValueError, match="checkpoint.interval: 1000 is no multiple of .* 16"):
        check_config(config)
    check_config({**config, "checkpoint": {"interval": "phase"}})
