"""Bytes of a real step on this machine, as torch's allocator saw them: the judge of estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "forward has ended"


def measure_step(model: Any, make_batch: Callable[[], Any]) -> tuple[int, int]:
    """Bytes above the start: when forward has ended, and at the worst moment of the step.

    Gradients of parameters are there before and belong to neither. oneDNN is off: in bfloat16 its
    convolutions take workspaces, which belong to no tensor and of which a GPU knows nothing.
    """
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    watch = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _without_onednn(), watch as profiled:
        total = model.parse_losses(model(make_batch(), mode="loss"))[0]
        with record_function(_MARK):
            pass
        total.backward()
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    live = peak = forward = 0
    for event in events:
        if event.name() == _MARK:
            forward = live
        elif event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return forward, peak


@contextmanager
def _without_onednn() -> Iterator[None]:
    backend = torch.backends.mkldnn
    before, backend.enabled = backend.enabled, False
    try:
        yield
    finally:
        backend.enabled = before
