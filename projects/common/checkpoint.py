"""Weights in and out of files: read, rename, load with a report, save whole or not at all.

Nothing in a file is executed: safetensors, or torch files of tensors only. Nothing is skipped
silently: a load is explained key by key, and what nobody declared is an error.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from projects.common.engine.distributed import get_rank
from projects.common.partition import full_shape, is_cut, whole
from projects.common.whole_file import whole_file

State = dict[str, Tensor]

INDEX_NAME = "model.safetensors.index.json"
WHOLE_NAME = "model.safetensors"
WRAPPERS = ("model", "state_dict")  # keys under which torch files hold the weights
LISTED = 8  # names that a message shows of each kind


# ---- reading --------------------------------------------------------------------------------


def read_state(path: str | os.PathLike[str]) -> State:
    """Read the tensors of a checkpoint to the CPU.

    Args:
        path: a ``.safetensors`` file, a ``.pt``/``.pth``/``.bin`` file of tensors (plain, or under
            ``model`` or ``state_dict``), or a folder with ``model.safetensors`` or an index of
            shards. A ``module.`` that starts every key (DDP) is dropped.

    Raises:
        FileNotFoundError: there is no such file, or the folder lacks weights or a shard.
        ValueError: the file is broken, holds anything but tensors, or its index names files
            outside of its folder.
    """
    path = Path(path)
    if path.is_dir():
        state = _read_folder(path)
    elif not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    elif path.suffix == ".safetensors":
        state = _read_safetensors(path)
    else:
        state = _read_torch(path)
    if not state:
        raise ValueError(f"{path} holds no tensors")
    return _without_prefix(state, "module.")


def _read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _read_torch(path: Path) -> State:
    mapped = zipfile.is_zipfile(path)  # pages are read when they are wanted; old files cannot
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{path} is broken, or holds more than tensors and plain data, which is not loaded "
            f"because it could run code: {reason}"
        ) from error
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    strangers = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise ValueError(
            f"{path} holds other things than tensors under {_some(strangers)}; "
            f"weights are expected plain or under {' or '.join(map(repr, WRAPPERS))}"
        )
    return dict(content)


def _read_folder(folder: Path) -> State:
    index = folder / INDEX_NAME
    if not index.is_file():
        whole = folder / WHOLE_NAME
        if not whole.is_file():
            raise FileNotFoundError(f"{folder} has neither {WHOLE_NAME} nor {INDEX_NAME}")
        return _read_safetensors(whole)
    try:
        places = json.loads(index.read_text())["weight_map"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is not an index: it needs a 'weight_map' ({error})") from error
    state: State = {}
    for name in sorted(set(places.values())):
        state.update(_read_safetensors(_shard(folder, name, index)))
    absent = sorted(set(places) - set(state))
    if absent:
        raise ValueError(f"{index} names tensors that its shards lack: {_some(absent)}")
    return state


def _shard(folder: Path, name: str, index: Path) -> Path:
    if Path(name).name != name or name in (".", ".."):
        raise ValueError(f"{index} names {name!r}, which is not a file of its own folder")
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{index} names {name}, which is missing in {folder}")
    return folder / name


def _without_prefix(state: State, prefix: str) -> State:
    if all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


# ---- renaming -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rename:
    """Keys that match the whole of ``pattern`` (regular expression) become ``target``."""

    pattern: str
    target: str  # may use \1, \2, ... for the pattern's groups


def name_rule(source: str, target: str) -> Rename:
    """A rule from two names: "#" is a number, "@" is ".weight" or ".bias", in the same order."""
    pattern = re.escape(source).replace(r"\#", r"(\d+)").replace("@", r"\.(weight|bias)")
    for number in range(1, 1 + target.count("#") + target.count("@")):
        place = re.search("[#@]", target)
        assert place is not None
        dot = "." if place[0] == "@" else ""
        target = target[: place.start()] + rf"{dot}\{number}" + target[place.end() :]
    return Rename(pattern, target)


def rename(state: State, rules: Sequence[Rename], *, where: str) -> State:
    """Rename every key by the one rule that matches it.

    Raises:
        ValueError: keys that no rule or more than one rule matches, or two keys with one new name.
    """
    compiled = [(re.compile(rule.pattern), rule.target) for rule in rules]
    renamed: State = {}
    unmatched: list[str] = []
    ambiguous: list[str] = []
    clashes: list[str] = []
    for key, value in state.items():
        hits = [m.expand(target) for pattern, target in compiled if (m := pattern.fullmatch(key))]
        if len(hits) != 1:
            (ambiguous if hits else unmatched).append(key)
        elif hits[0] in renamed:
            clashes.append(f"{key} -> {hits[0]}")
        else:
            renamed[hits[0]] = value
    problems = [
        f"{what}: {_some(keys)}"
        for what, keys in (
            ("no rule for", unmatched),
            ("more than one rule for", ambiguous),
            ("a second key with the same new name", clashes),
        )
        if keys
    ]
    if problems:
        raise ValueError(f"{where} does not fit the table of names; " + "; ".join(problems))
    return renamed


# ---- loading --------------------------------------------------------------------------------


@dataclass
class LoadReport:
    """What became of every key of a load."""

    where: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # in the model only
    unexpected: list[str] = field(default_factory=list)  # in the file only
    mismatched: list[str] = field(default_factory=list)  # "key: shape in file, shape in model"
    notes: list[str] = field(default_factory=list)  # what was changed on the way

    def __str__(self) -> str:
        lines = [
            f"{self.where}: {len(self.matched)} matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.mismatched)} of another shape"
        ]
        for name in ("missing", "unexpected", "mismatched"):
            keys = getattr(self, name)
            if keys:
                lines.append(f"  {name}: {_some(keys)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def load_state(
    module: nn.Module,
    state: State,
    *,
    rules: Sequence[Rename] | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    where: str,
) -> LoadReport:
    """Copy ``state`` into ``module``; nothing is copied unless every key is explained.

    Args:
        rules: table of names; each key of ``state`` must match exactly one rule.
        allow_missing: globs of keys that may stay as the module has them.
        allow_unexpected: globs of keys (after renaming) that may be left out.
        where: what is loaded, for messages.

    Raises:
        ValueError: nothing matches, a shape differs, or a key is missing or left over that no
            glob allows. The message is the report.
    """
    if rules is not None:
        state = rename(state, rules, where=where)
    own = module.state_dict(keep_vars=True)
    report = LoadReport(where)
    for key, value in state.items():
        if key not in own:
            report.unexpected.append(key)
        elif value.shape != full_shape(own[key]):
            theirs, ours = tuple(value.shape), tuple(full_shape(own[key]))
            report.mismatched.append(f"{key}: {theirs} in the file, {ours} in the model")
        else:
            report.matched.append(key)
    report.missing = [key for key in own if key not in state]
    unexplained = (
        not report.matched
        or report.mismatched
        or _not_allowed(report.missing, allow_missing)
        or _not_allowed(report.unexpected, allow_unexpected)
    )
    if unexplained:
        raise ValueError(
            f"{report}\nNothing was loaded. Is it a checkpoint of another model or size? The "
            f"file has keys like {_some(sorted(state), 3)}; the model like {_some(sorted(own), 3)}."
        )
    plain = {key: state[key] for key in report.matched if not is_cut(own[key])}
    module.load_state_dict(plain, strict=False)
    with torch.no_grad():
        for key in report.matched:
            if key not in plain:  # in parts on the ranks: one whole at a time
                with whole([own[key]], write=True):
                    if get_rank() == 0:  # the others get it from there, and need not read the file
                        own[key].copy_(state[key])
    return report


def _not_allowed(keys: Sequence[str], globs: Sequence[str]) -> list[str]:
    return [key for key in keys if not any(fnmatchcase(key, glob) for glob in globs)]


def _some(names: Sequence[str], limit: int = LISTED) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"


# ---- saving ---------------------------------------------------------------------------------


def save_safetensors(
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write tensors to ``path``, whole or not at all."""
    # safetensors refuses tensors that share memory; a file has no use for the sharing
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    with whole_file(path) as partial:
        try:
            save_file(plain, partial, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error
