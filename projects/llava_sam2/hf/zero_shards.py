"""DeepSpeed's ZeRO shards (Rajbhandari et al., 2020) put together without DeepSpeed.

    *_model_states.pt   shapes of what trains, in order, by group; buffers
    *_optim_states.pt   one a rank: the float32 weights beside the optimizer's moments

    stage 1, 2   a group is one long vector, cut into equal parts, one a rank
    stage 3      every parameter is cut into equal parts, padded; a rank's parts follow each other

Tensors and plain data are all that is read. Whatever else a file mentions (loss scalers, other
programs' logs) becomes an inert stand-in: nothing of it is imported, let alone run.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projects.common.checkpoint import State
from projects.common.engine.checkpoints import find_latest

_RANK = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_MODEL = re.compile(r"(?:zero_pp_rank_0_)?mp_rank_00_model_states\.pt")
_PARTS = "single_partition_of_fp32_groups"
_FLAT = "fp32_flat_groups"


class Inert:
    """Stands for an object of a class that is not imported; holds what it was made of."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.arguments = (state,)


@dataclass
class ZeroShards:
    """The shards of one checkpoint, opened."""

    folder: Path
    stage: int
    shapes: list[Mapping[str, Sequence[int]]]  # of what trains, by group
    ranks: list[Mapping[str, Any]]  # the optimizer states of each rank
    buffers: State
    shared: Mapping[str, str]  # name: of the parameter that it is another name of


def find_shards(path: str | Path) -> Path:
    """The folder of shards that a path means: itself, or in a checkpoint or work dir of ours, or
    below DeepSpeed's ``latest``.

    Raises:
        FileNotFoundError: none of these.
    """
    path = Path(path)
    candidates = [path, path / "zero"]
    if path.is_dir():
        newest = find_latest(path)
        candidates += [newest / "zero"] if newest else []
        if (path / "latest").is_file():
            candidates.append(path / (path / "latest").read_text().strip())
    for folder in candidates:
        if folder.is_dir() and any(_RANK.fullmatch(file.name) for file in folder.iterdir()):
            return folder
    raise FileNotFoundError(
        f"{path} holds no shards of DeepSpeed (zero_pp_rank_*_optim_states.pt): give a checkpoint "
        "folder (iter_N.pth), its zero/, or a folder of DeepSpeed's"
    )


def open_shards(folder: Path) -> ZeroShards:
    """Read the shards of a folder; tensors stay on the disk until they are used.

    Raises:
        FileNotFoundError: the shard of a rank, or of the model, is missing.
        ValueError: broken or foreign files, tensor parallelism, or an unknown stage.
    """
    files = _rank_files(folder)
    models = [file for file in sorted(folder.iterdir()) if _MODEL.fullmatch(file.name)]
    if not models:
        raise FileNotFoundError(f"{folder} lacks mp_rank_00_model_states.pt, which has the names")
    model = _read(models[0])
    ranks = [_section(_read(file), "optimizer_state_dict", file) for file in files]
    first = ranks[0]
    if "zero_stage" not in first:
        raise ValueError(f"{files[0]} is of DeepSpeed without ZeRO: it has no zero_stage")
    counts = first["partition_count"]
    expected = max(counts) if isinstance(counts, (list, tuple)) else int(counts)
    if expected != len(files):
        raise FileNotFoundError(
            f"{folder} was written by {expected} processes, and holds the shards of {len(files)}"
        )
    shapes = _section(model, "param_shapes", models[0])
    return ZeroShards(
        folder=folder,
        stage=_plain_number(first["zero_stage"]),
        shapes=shapes if isinstance(shapes, list) else [shapes],
        ranks=ranks,
        buffers={name: model["module"][name] for name in model.get("buffer_names") or ()},
        shared=dict(model.get("shared_params") or {}),
    )


def merge_shards(shards: ZeroShards) -> State:
    """Everything that trains, whole and in float32, and the buffers.

    Raises:
        ValueError: shards that do not hold as many numbers as the shapes ask for.
    """
    if shards.stage in (0, 1, 2):
        state = dict(_merge_groups(shards))
    elif shards.stage == 3:
        state = dict(_merge_parameters(shards))
    else:
        raise ValueError(f"{shards.folder}: unknown ZeRO stage {shards.stage}")
    state |= shards.buffers
    for name, of in shards.shared.items():
        if of in state:
            state[name] = state[of]
    return state


def _merge_groups(shards: ZeroShards) -> Iterator[tuple[str, Tensor]]:
    """Stages 1 and 2: the ranks' parts of a group, one after another, are its vector."""
    groups = len(shards.ranks[0][_PARTS])
    if groups != len(shards.shapes):
        raise ValueError(f"{shards.folder}: {groups} groups of {len(shards.shapes)}")
    paddings = shards.ranks[0].get("param_alignment_paddings")
    for number, shapes in enumerate(shards.shapes):
        vector = torch.cat([rank[_PARTS][number] for rank in shards.ranks])
        gaps = [0] * len(shapes) if paddings is None else paddings[number]
        place = 0
        for (name, shape), gap in zip(shapes.items(), gaps, strict=True):
            count = math.prod(shape)
            _enough(shards, name, place + count, len(vector))
            yield name, vector[place : place + count].reshape(tuple(shape)).clone()
            place += count + gap
        _used_up(shards, place, len(vector), 2 * len(shards.ranks))  # both aligned to this


def _merge_parameters(shards: ZeroShards) -> Iterator[tuple[str, Tensor]]:
    """Stage 3: a parameter is the ranks' parts of it, one after another, without the padding."""
    vectors = [torch.cat([part.flatten() for part in rank[_FLAT]]) for rank in shards.ranks]
    place = 0
    for shapes in shards.shapes:
        for name, shape in shapes.items():
            count = math.prod(shape)
            part = -(-count // len(vectors))
            for vector in vectors:
                _enough(shards, name, place + part, len(vector))
            whole = torch.cat([vector[place : place + part] for vector in vectors])
            yield name, whole[:count].reshape(tuple(shape)).clone()
            place += part
    for vector in vectors:
        _used_up(shards, place, len(vector), 1)


def _enough(shards: ZeroShards, name: str, wanted: int, there: int) -> None:
    if wanted > there:
        raise ValueError(f"{shards.folder}: {there} numbers, {name} ends at {wanted}: files mixed?")


def _used_up(shards: ZeroShards, used: int, there: int, align: int) -> None:
    if -(-used // align) != -(-there // align):
        raise ValueError(
            f"{shards.folder}: {used} numbers have a name, {there} are in the shards: files mixed?"
        )


def _rank_files(folder: Path) -> list[Path]:
    found = {}
    for file in folder.iterdir():
        if match := _RANK.fullmatch(file.name):
            if int(match[2]):
                raise ValueError(f"{file}: shards of tensor parallelism cannot be merged here")
            found[int(match[1])] = file
    missing = sorted(set(range(max(found) + 1)) - set(found)) if found else [0]
    if missing:
        raise FileNotFoundError(f"{folder} lacks the shards of the ranks {missing[:8]}")
    return [found[rank] for rank in sorted(found)]


def _read(file: Path) -> Any:
    try:
        strangers = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        with torch.serialization.safe_globals([(Inert, name) for name in strangers]):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "blocked" in line), lines[0]).strip()
        raise ValueError(f"{file} is broken, or no file of torch: {reason}") from error


def _section(content: Any, key: str, file: Path) -> Any:
    if not isinstance(content, Mapping) or key not in content:
        raise ValueError(f"{file} has no {key}: it is no ZeRO checkpoint of DeepSpeed")
    return content[key]


def _plain_number(value: Any) -> int:
    return int(value.arguments[0]) if isinstance(value, Inert) else int(value)
