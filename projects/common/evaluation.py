"""Run a benchmark over all processes, keep its records, survive an interruption.

A benchmark is a list of items (an image or a video with all its expressions). ``run_benchmark``
shares the items out over the ranks, asks the benchmark for each item's records, gathers them,
writes ``<out_dir>/<name>.jsonl`` and returns the summary. While it runs, each rank appends what it
has done to ``<out_dir>/.<name>.part<rank>.jsonl``; a later run of the same benchmark with the same
weights continues from there, on any number of ranks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from projects.common.whole_file import whole_file

logger = logging.getLogger(__name__)

Record = dict[str, Any]
T = TypeVar("T")
_SAMPLED_PER_TENSOR = 1024


class Benchmark(Protocol):
    """What an evaluation consists of. Records are plain JSON; masks in them are RLE.

    A benchmark may also have ``fingerprint() -> str``, which changes whenever its records would.
    With it an interrupted evaluation continues where it stopped; without it, it starts anew.
    Its class may have ``metrics``, the names that ``summarise`` gives (break-downs ``name[...]``
    aside): with them a wrong ``validation.best`` is a mistake of the config, and not of a run.
    """

    def __len__(self) -> int:
        """Number of items."""

    def predict(self, model: Any, index: int) -> list[Record]:
        """Records of item ``index``."""

    def summarise(self, records: list[Record]) -> dict[str, float]:
        """Metrics over the records of all items, in the order of the items."""


def run_benchmark(
    name: str, benchmark: Benchmark, model: Any, out_dir: str | Path
) -> dict[str, float]:
    """Evaluate ``model`` and return ``{"<name>/<metric>": value}``, the same on every rank.

    Args:
        name: the benchmark's name in the config; used for file names and keys.
        benchmark: see ``Benchmark``.
        model: whatever ``benchmark.predict`` takes. An ``nn.Module`` is put in eval mode for the
            run, and every submodule's own mode is restored after it.
        out_dir: where the records go.

    Raises:
        ValueError: an empty benchmark, or a name that is no file name.
        RuntimeError: on every rank, when one of them failed; that one raises its own error.
    """
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise ValueError(f"benchmark name {name!r}: use letters, digits, '_', '-', '+' and '.'")
    if len(benchmark) == 0:
        raise ValueError(f"benchmark {name!r} has no items; check its data paths and split")
    out_dir = Path(out_dir)
    fingerprint, done = _continued(name, benchmark, model, out_dir)
    todo = [index for index in range(len(benchmark)) if index not in done]
    if done and _rank() == 0:
        logger.info("%s: continuing, %d of %d items are done", name, len(done), len(benchmark))
    mine = todo[_rank() :: _world_size()]
    done |= _merge(
        _together(name, lambda: _predict_items(name, benchmark, model, out_dir, fingerprint, mine))
    )
    records = [record for index in range(len(benchmark)) for record in done[index]]
    summary = benchmark.summarise(records)
    _together(name, lambda: _finish(out_dir, name, records))
    return {f"{name}/{metric}": float(value) for metric, value in summary.items()}


def read_records(path: str | Path) -> list[Record]:
    """Records of a finished evaluation (``<out_dir>/<name>.jsonl``)."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run the evaluation that writes it first")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def model_fingerprint(model: Any) -> str:
    """Short hash of a model's weights: every tensor's name, shape and up to 1024 of its values.

    Evenly spaced values are enough to tell two checkpoints apart (an optimizer step moves all
    values of what it trains) and cost nothing beside an evaluation, whatever the model's size.
    """
    digest = hashlib.sha256()
    if isinstance(model, nn.Module):
        for key, value in model.state_dict().items():
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            flat = value.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // _SAMPLED_PER_TENSOR)]
            digest.update(sample.double().cpu().numpy().tobytes())
    else:
        digest.update(type(model).__qualname__.encode())
    return digest.hexdigest()[:16]


def _continued(
    name: str, benchmark: Benchmark, model: Any, out_dir: Path
) -> tuple[str | None, dict[int, list[Record]]]:
    """What an interrupted run has left, with the fingerprint that its parts must have."""

    def read_own() -> tuple[str | None, dict[int, list[Record]]]:
        out_dir.mkdir(parents=True, exist_ok=True)
        fingerprint = _fingerprint(name, benchmark, model)
        return fingerprint, _read_own_parts(out_dir, name, fingerprint)

    found = _together(name, read_own)
    return found[_rank()][0], _merge([done for _, done in found])


def _finish(out_dir: Path, name: str, records: list[Record]) -> None:
    if _rank() == 0:
        _write_records(out_dir / f"{name}.jsonl", records)
        for part in _parts(out_dir, name):
            part.unlink()


def _fingerprint(name: str, benchmark: Benchmark, model: Any) -> str | None:
    """What partial records must agree on to be continued; None when that cannot be known."""
    describe = getattr(benchmark, "fingerprint", None)
    if describe is None:
        return None
    return f"{name}:{len(benchmark)}:{describe()}:{model_fingerprint(model)}"


def _predict_items(
    name: str,
    benchmark: Benchmark,
    model: Any,
    out_dir: Path,
    fingerprint: str | None,
    indices: list[int],
) -> dict[int, list[Record]]:
    from projects.common.progress import track  # needs tqdm, which a library user may not want

    done: dict[int, list[Record]] = {}
    with _evaluating(model), _open_part(out_dir, name, fingerprint) as part:
        for index in track(indices, total=len(indices), description=name):
            done[index] = benchmark.predict(model, index)
            part.write(json.dumps({"item": index, "records": done[index]}) + "\n")
            part.flush()
    return done


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Eval mode and no gradients; afterwards each submodule is in the mode it was in."""
    modes = {}
    if isinstance(model, nn.Module):
        modes = {module: module.training for module in model.modules()}
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


# Partial records: a first line with the fingerprint, then one line an item.


def _parts(out_dir: Path, name: str) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(name)}\.part\d+\.jsonl")
    return sorted(path for path in out_dir.iterdir() if pattern.fullmatch(path.name))


def _read_own_parts(out_dir: Path, name: str, fingerprint: str | None) -> dict[int, list[Record]]:
    """Records left by an interrupted run. Part files are shared out over the ranks by number."""
    done: dict[int, list[Record]] = {}
    for path in _parts(out_dir, name):
        number = int(path.name.split(".part")[-1].removesuffix(".jsonl"))
        if number % _world_size() == _rank():
            done |= _read_part(path, fingerprint)
    return done


def _read_part(path: Path, fingerprint: str | None) -> dict[int, list[Record]]:
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a cut last line has no newline
    if fingerprint is None or not lines or json.loads(lines[0]) != {"fingerprint": fingerprint}:
        return {}
    items = (json.loads(line) for line in lines[1:])
    return {item["item"]: item["records"] for item in items}


def _open_part(out_dir: Path, name: str, fingerprint: str | None) -> TextIO:
    """This rank's part file, cut back to its whole lines, or started anew."""
    path = out_dir / f".{name}.part{_rank()}.jsonl"
    if path.is_file() and _read_part(path, fingerprint):
        whole = path.read_bytes()
        os.truncate(path, whole.rfind(b"\n") + 1)
        return path.open("a", encoding="utf-8")
    part = path.open("w", encoding="utf-8")
    part.write(json.dumps({"fingerprint": fingerprint}) + "\n")
    return part


def _write_records(path: Path, records: list[Record]) -> None:
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record) + "\n")


# Processes.


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _gather(own: Any) -> list[Any]:
    """Every rank's object, on every rank."""
    if not dist.is_initialized():
        return [own]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return gathered


def _together(name: str, function: Callable[[], T]) -> list[T]:
    """Call ``function`` on each rank, give everyone's results; one rank's error is everyone's.

    Without this, the other ranks would wait for the failed one until the connection times out.
    """
    result, error = None, None
    try:
        result = function()
    except Exception as caught:
        error = caught
    gathered = _gather((result, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    for rank, (_, message) in enumerate(gathered):
        if message is not None:
            raise RuntimeError(f"benchmark {name!r} failed on rank {rank}: {message}")
    return [item for item, _ in gathered]


def _merge(parts: list[dict[int, list[Record]]]) -> dict[int, list[Record]]:
    return {index: records for part in parts for index, records in part.items()}
