"""Progress: what is shown where, on which rank, and how often."""

from __future__ import annotations

import io

import pytest

from projects.common import progress as progress_module
from projects.common.progress import Progress, current_rank, duration, track


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m 00s"), (185, "3m 05s"), (7441, "2h 04m")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_track_yields_every_item_once_and_ends_with_a_full_line(capsys) -> None:
    assert list(track([3, 1, 2], description="Frames")) == [3, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Frames: 3/3 (100%), 0s elapsed"]


def test_lines_in_a_log_come_every_tenth_with_the_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(total=200, description="Training", stream=stream, clock=clock) as progress:
        for _ in range(200):
            clock.now += 0.5
            progress.update(note="loss 0.5")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "Training: 20/200 (10%), 10s elapsed, 1m 30s left, loss 0.5"
    assert lines[-1] == "Training: 200/200 (100%), 1m 40s elapsed, loss 0.5"
    assert "\r" not in stream.getvalue()


def test_a_slow_job_reports_every_half_minute_and_a_quick_one_does_not_flood() -> None:
    stream, clock = io.StringIO(), Clock()
    slow = Progress(total=1000, description="Slow", stream=stream, clock=clock)
    for _ in range(6):
        clock.now += 10.0
        slow.update()
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "Slow: 3/1000 (0%)",
        "Slow: 6/1000 (1%)",
    ]
    stream = io.StringIO()
    with Progress(total=1000, description="Quick", stream=stream, clock=clock) as quick:
        for _ in range(1000):
            clock.now += 0.001
            quick.update()
    assert len(stream.getvalue().splitlines()) == 1


def test_resumed_work_is_counted_but_not_used_for_the_estimate() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(total=100, description="R", initial=80, stream=stream, clock=clock)
    for _ in range(10):
        clock.now += 1.0
        progress.update()
    assert stream.getvalue() == "R: 90/100 (90%), 10s elapsed, 10s left\n"


def test_an_unknown_total_has_no_percentage_and_close_shows_the_count() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(total=None, description="Stream", stream=stream, clock=clock)
    progress.update(7)
    assert stream.getvalue() == ""
    progress.close()
    progress.close()
    assert stream.getvalue() == "Stream: 7, 0s elapsed\n"


def test_an_interrupted_job_shows_where_it_stopped(capsys) -> None:
    iterator = track(range(10), description="Left")
    for _ in range(4):
        next(iterator)
    iterator.close()
    assert capsys.readouterr().err.startswith("Left: 3/10 (30%)")


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    with Progress(total=4, description="Bar", stream=stream) as progress:
        for _ in range(4):
            progress.update()
    assert "\r" in stream.getvalue()
    assert "4/4" in stream.getvalue()


def test_other_ranks_are_silent(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("RANK", "1")
    assert current_rank() == 1
    assert list(track(range(5), description="Rank 1")) == list(range(5))
    stream = Terminal()
    with Progress(total=2, description="Rank 1", stream=stream) as progress:
        progress.update(2)
    assert stream.getvalue() == ""
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_the_process_group_outranks_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(progress_module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(progress_module.dist, "get_rank", lambda: 3)
    assert current_rank() == 3
