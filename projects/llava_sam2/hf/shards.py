"""Tensors of a checkpoint folder, read one by one and written in shards.

A folder holds ``model.safetensors``, or shards under any name with an index. Only headers are read
until a tensor is wanted, so that a folder is checked before it costs anything, and loading holds
the model and one tensor beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from projects.common.checkpoint import INDEX_NAME, WHOLE_NAME, LoadReport
from projects.common.partition import cut

Convert = Callable[[str, Tensor], dict[str, Tensor]]  # one tensor of a file to those of a model
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class TensorFolder:
    """The tensors of a folder by name; nothing but headers is read at first.

    Raises:
        FileNotFoundError: no folder, no safetensors in it, or a shard is missing.
        ValueError: a broken file, or an index that disagrees with its shards.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no checkpoint folder at {self.folder}")
        self.shapes: dict[str, list[int]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.files: dict[Path, list[str]] = {}
        for file, names in _files(self.folder).items():
            self._read_header(file, names)

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def names(self, prefix: str = "") -> list[str]:
        return [name for name in self.shapes if name.startswith(prefix)]

    def read(self, wanted: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) file by file; of all names, or of those that are wanted."""
        chosen = set(self.shapes) if wanted is None else set(wanted)
        for file, names in self.files.items():
            with safe_open(file, framework="pt") as opened:
                for name in names:
                    if name in chosen:
                        yield name, opened.get_tensor(name)

    def _read_header(self, file: Path, expected: list[str] | None) -> None:
        try:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                slices = {name: opened.get_slice(name) for name in names}
                shapes = {name: part.get_shape() for name, part in slices.items()}
                dtypes = {name: _DTYPES.get(part.get_dtype()) for name, part in slices.items()}
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file: {error}") from error
        lacking = sorted(set(expected or []) - set(names))
        if lacking:
            raise ValueError(
                f"{self.folder / INDEX_NAME} places {len(lacking)} tensors in {file.name} that it "
                f"lacks, like {', '.join(lacking[:3])}: the download is incomplete or mixed"
            )
        twice = sorted(set(names) & set(self.shapes))
        if twice:
            raise ValueError(f"{self.folder} holds {', '.join(twice[:3])} in two files")
        self.shapes |= shapes
        self.dtypes |= {name: dtype for name, dtype in dtypes.items() if dtype is not None}
        self.files[file] = names


def _files(folder: Path) -> dict[Path, list[str] | None]:
    index = folder / INDEX_NAME
    if not index.is_file():
        whole = folder / WHOLE_NAME
        if not whole.is_file():
            pickled = sorted(folder.glob("pytorch_model*.bin"))
            hint = " (pickled .bin files are not loaded: they can run code)" if pickled else ""
            raise FileNotFoundError(f"{folder} has neither {WHOLE_NAME} nor {INDEX_NAME}{hint}")
        return {whole: None}
    try:
        places = json.loads(index.read_text())["weight_map"]
        shards = sorted(set(places.values()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{index} is not an index: it needs a 'weight_map' ({error})") from error
    files: dict[Path, list[str] | None] = {}
    for name in shards:
        if not isinstance(name, str) or Path(name).name != name or name in (".", ".."):
            raise ValueError(f"{index} names {name!r}, which is not a file of its own folder")
        files[folder / name] = [tensor for tensor, file in places.items() if file == name]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder} lacks {len(absent)} of {len(files)} shards that its index names: "
            f"{', '.join(absent[:4])}"
        )
    return files


# ---- into a model -----------------------------------------------------------------------------


def plan(
    source: TensorFolder, names: Iterable[str], convert: Convert, model: nn.Module, *, where: str
) -> LoadReport:
    """Explain every tensor before any is read; tied and shared parameters are asked for once.

    Raises:
        ValueError: a tensor that the model lacks, one of another shape, two for one place, or a
            place that nothing fills. The message is the report.
    """
    own = wanted(model)
    report = LoadReport(where)
    filled: dict[str, str] = {}
    for name in names:
        try:
            made = convert(name, _empty(source.shapes[name]))
        except ValueError as error:  # a fused matrix that cannot be split
            report.mismatched.append(f"{name}: {error}")
            continue
        if not made:
            report.notes.append(f"{name} is computed by the model, not loaded")
        for target, tensor in made.items():
            if target in filled:
                report.unexpected.append(f"{name} ({target} is {filled[target]} already)")
            elif target not in own:
                report.unexpected.append(name if target == name else f"{name} ({target})")
            elif tensor.shape != own[target].shape:
                theirs, ours = tuple(tensor.shape), tuple(own[target].shape)
                report.mismatched.append(f"{name}: {theirs} in the file, {ours} in the model")
            else:
                report.matched.append(target)
            filled[target] = name
    report.missing = [name for name in own if name not in filled]
    if report.missing or report.unexpected or report.mismatched:
        raise ValueError(f"{report}\nNothing was loaded: is the folder whole, and of this model?")
    return report


def fill(
    source: TensorFolder,
    names: Iterable[str],
    convert: Convert,
    model: nn.Module,
    *,
    dtype: torch.dtype,
) -> None:
    """Put the tensors into a model that was built on the meta device; see :func:`plan` first.

    Where ZeRO-3 trains, each is cut as soon as it is there, so that no rank holds them all.
    """
    for name, tensor in source.read(names):
        made = {
            target: part.to(dtype, copy=True).contiguous()
            for target, part in convert(name, tensor).items()
        }
        model.load_state_dict(made, strict=False, assign=True)
        cut(model.get_parameter(target) for target in made)


def wanted(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint must bring: the state without further names of one tensor."""
    seen: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {n: t for n, t in state.items() if seen.setdefault(id(t), n) == n}


def _empty(shape: list[int]) -> Tensor:
    return torch.empty(shape, device="meta")


# ---- out of one -------------------------------------------------------------------------------


def parse_size(text: str) -> int:
    """Bytes of "5GB", "200MB" or "1000".

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"(\d+)\s*([KMG]B)?", text.strip().upper())
    if not match or not int(match[1]):
        raise ValueError(f"{text!r} is no size: write a number with KB, MB or GB, such as 5GB")
    return int(match[1]) * _UNITS[match[2] or ""]


def write_shards(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    max_size: int,
    dtype: torch.dtype | None = None,
) -> list[str]:
    """Write tensors in files of at most ``max_size`` bytes (a larger tensor stands alone).

    One file is ``model.safetensors``; several have an index. Floating tensors become ``dtype``.

    Returns:
        The names of the files.
    """
    groups = _groups(state, max_size, dtype)
    names = (
        [WHOLE_NAME]
        if len(groups) == 1
        else [f"model-{n + 1:05}-of-{len(groups):05}.safetensors" for n in range(len(groups))]
    )
    for name, group in zip(names, groups, strict=True):
        part = {key: _plain(state[key], dtype) for key in group}
        save_file(part, folder / name, metadata={"format": "pt"})
    if len(groups) > 1:
        places = {key: name for name, group in zip(names, groups, strict=True) for key in group}
        total = sum(_bytes(tensor, dtype) for tensor in state.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n")
    return names


def _groups(
    state: Mapping[str, Tensor], max_size: int, dtype: torch.dtype | None
) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    used = 0
    for name, tensor in state.items():
        size = _bytes(tensor, dtype)
        if groups[-1] and used + size > max_size:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _bytes(tensor: Tensor, dtype: torch.dtype | None) -> int:
    target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return tensor.numel() * target.itemsize


def _plain(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", target, copy=True).contiguous()
