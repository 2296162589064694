"""The toy config is whole, builds its model, and survives a dump."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from projects.common import registry
from projects.common.engine.config import KNOWN_KEYS, load_config, plain
from projects.sam2_video.train_model import Sam2VideoTraining

TOY = Path(__file__).parents[2] / "projects" / "sam2_video" / "configs" / "toy.py"


def test_nothing_but_data_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "nowhere"))
    found = registry.mistakes(
        {k: v for k, v in plain(load_config(TOY)).items() if k in ("model", "benchmarks")},
        known=KNOWN_KEYS,
    )
    assert found and all(f"{tmp_path}/nowhere" in mistake for mistake in found)


def test_the_model_builds_and_the_dump_reloads(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "some/root")
    cfg = load_config(TOY)
    model = registry.build(plain(cfg)["model"])
    assert isinstance(model, Sam2VideoTraining)
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 1.0e6
    dumped = tmp_path / "dumped.py"
    cfg.dump(str(dumped))
    again = plain(Config.fromfile(str(dumped)))
    assert again["benchmarks"]["davis_val"]["source"]["image_root"] == "some/root/DAVIS/JPEGImages"
    rebuilt = registry.build(again["model"])
    assert str(rebuilt) == str(model)
    assert vars(rebuilt.unroll.simulator) == vars(model.unroll.simulator)
    assert vars(rebuilt.unroll.mask_loss) == vars(model.unroll.mask_loss)
