"""Replaced samples and skipped transforms reach the log, counted and without a flood."""

from __future__ import annotations

from types import SimpleNamespace

from projects.common.engine.hooks.samples import SampleEventsHook
from projects.common.reading import SampleEvent


def test_events_are_named_at_powers_of_ten_and_summed_at_the_end(caplog):
    hook = SampleEventsHook()
    hook.before_train(None)
    for step in range(120):
        events = [SampleEvent("affine_skipped", f"video{step}")]
        if step == 7:
            events.append(SampleEvent("bad_sample", "clip.json: broken RLE"))
        hook.after_train_iter(
            None, step, {"batch": SimpleNamespace(names=["a", "b"], events=events)}
        )
    hook.after_train_iter(None, 120, {"batch": SimpleNamespace()})  # a batch that has no events
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "affine_skipped number 1, by step 1: video0",
        "bad_sample number 1, by step 8: clip.json: broken RLE",
        "affine_skipped number 10, by step 10: video9",
        "affine_skipped number 100, by step 100: video99",
    ]
    caplog.clear()
    hook.after_train(None)
    assert [record.getMessage() for record in caplog.records] == [
        "affine_skipped: 120 in 240 samples of this process",
        "bad_sample: 1 in 240 samples of this process",
    ]
