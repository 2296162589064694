"""Configs to objects: ``build`` makes them, ``check`` finds all mistakes first.

A config is a tree of dicts. A dict with ``type`` (a class, a function, or its name) becomes a call
with the other keys as keywords, inner dicts first; dicts without ``type``, lists and tuples are
walked through. Names are dotted paths (``package.module.Name`` or ``package.module:Name``), which
is what a dumped config holds, or names of mmengine's registries.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mmengine.registry
from torch import nn

from projects.common.partition import cut

ABSENT = "does not exist"


class ConfigError(ValueError):
    """Mistakes in a config, found before anything was built."""


def build(cfg: Any) -> Any:
    """Build a config tree depth first.

    Modules are cut over the ranks as soon as they are built, where ZeRO-3 trains.

    Raises:
        ValueError: a ``type`` that cannot be found.
    """
    if isinstance(cfg, Mapping):
        parts = {key: build(value) for key, value in cfg.items() if key != "type"}
        if "type" not in cfg:
            return parts
        built = resolve(cfg["type"])(**parts)
        if isinstance(built, nn.Module):
            cut(built.parameters())
        return built
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(build(value) for value in cfg)
    return cfg


def resolve(target: str | Callable) -> Callable:
    """The class or function that ``type`` names; callables are returned as they are.

    Raises:
        ValueError: the name leads to nothing, or to something that cannot be called.
    """
    found: Any = target
    if isinstance(target, str):
        is_path = "." in target or ":" in target
        found = _imported(target) if is_path else _registered(target)
    if not callable(found):
        raise ValueError(
            f"type {target!r} is {type(found).__name__}, not a class or function: "
            "give one, or its dotted path"
        )
    return found


def find(target: Any) -> Callable | None:
    """As :func:`resolve`; None where the name leads to nothing (a check says so by itself)."""
    try:
        return resolve(target)
    except ValueError:
        return None


def check(cfg: Any, where: str = "", *, known: tuple[str, ...] | None = None) -> None:
    """Find every mistake of a config tree before anything is built (see :func:`mistakes`).

    Raises:
        ConfigError: all mistakes, one a line, each with its key path.
    """
    raise_mistakes(mistakes(cfg, where, known=known))


def mistakes(cfg: Any, where: str = "", *, known: tuple[str, ...] | None = None) -> list[str]:
    """Unknown and missing keywords, types that cannot be called, and inputs that do not exist.

    Inputs are keywords whose annotation mentions ``Path`` and whose name does not start with
    ``out``; they are looked for as they are and below a ``data_root`` beside them.

    Args:
        cfg: the tree.
        where: key path of the tree, for the messages.
        known: keys allowed at the top; names that start with an underscore are always free, for
            helper variables.
    """
    found = [] if known is None else key_mistakes(cfg, (), known, where)
    return found + list(_mistakes(cfg, where))


def key_mistakes(
    section: Mapping, needed: tuple[str, ...], further: tuple[str, ...], where: str
) -> list[str]:
    """Keys of a section that are missing, or that nobody reads."""
    allowed = (*needed, *further)
    found = [
        f"{_join(where, key)}: unknown key{_similar(key, allowed)}"
        for key in section
        if key not in allowed and not key.startswith("_")
    ]
    return found + [f"{_join(where, key)}: missing" for key in needed if key not in section]


def raise_mistakes(found: list[str]) -> None:
    """Raise one :class:`ConfigError` (a ValueError) that lists all mistakes, if there are any."""
    found = _files_once(found)
    if found:
        count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
        raise ConfigError("\n  ".join([f"the config has {count}:", *found]))


def _files_once(found: list[str]) -> list[str]:
    """A file that many keys name, and that is not there, is one mistake."""
    keys: dict[str, list[str]] = {}
    for mistake in found:
        key, _, text = mistake.partition(": ")
        if text.endswith(ABSENT):
            keys.setdefault(text, []).append(key)

    def told(mistake: str) -> str:
        text = mistake.partition(": ")[2]
        named = keys.get(text, [])
        return f"{named[0]} and {len(named) - 1} more: {text}" if len(named) > 1 else mistake

    return list(dict.fromkeys(map(told, found)))


def _registered(name: str) -> Any:
    importlib.import_module("mmengine.runner")  # its classes register when they are imported
    for value in vars(mmengine.registry).values():
        if isinstance(value, mmengine.registry.Registry) and name in value.module_dict:
            return value.module_dict[name]
    raise ValueError(f"type {name!r} is in no registry of mmengine: write its dotted path")


def _imported(name: str) -> Any:
    module, _, attribute = name.replace(":", ".").rpartition(".")
    try:
        return getattr(_import_longest(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"type {name!r} cannot be found: {error}") from error


def _import_longest(path: str) -> Any:
    """Import ``a.b.C``: modules as far as they go, then attributes (a class with a method)."""
    names = path.split(".")
    for end in range(len(names), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(names[:end]))
        except ModuleNotFoundError as error:
            # only a missing piece of this very path may be an attribute instead
            if error.name is None or not path.startswith(error.name):
                raise
            continue
        for name in names[end:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(f"no module named {names[0]!r}")


def _mistakes(cfg: Any, where: str) -> Iterator[str]:
    if isinstance(cfg, Mapping):
        if "type" in cfg:
            yield from _call_mistakes(cfg, where)
        for key, value in cfg.items():
            if key != "type":
                yield from _mistakes(value, _join(where, key))
    elif isinstance(cfg, (list, tuple)):
        for number, value in enumerate(cfg):
            yield from _mistakes(value, f"{where}[{number}]")


def _call_mistakes(cfg: Mapping, where: str) -> Iterator[str]:
    try:
        target = resolve(cfg["type"])
        parameters = inspect.signature(target).parameters
    except ValueError as error:
        yield f"{_join(where, 'type')}: {error}"
        return
    given = {key: value for key, value in cfg.items() if key != "type"}
    name = getattr(target, "__name__", str(target))
    kinds = {parameter.kind for parameter in parameters.values()}
    accepted = [p.name for p in parameters.values() if p.kind in _BY_NAME]
    for key, value in given.items():
        if key in accepted:
            yield from _file_mistakes(parameters[key], value, given, _join(where, key))
        elif inspect.Parameter.VAR_KEYWORD not in kinds:
            yield f"{_join(where, key)}: {name} has no such key{_similar(key, accepted)}"
    for key in accepted:
        if parameters[key].default is inspect.Parameter.empty and key not in given:
            yield f"{_join(where, key)}: missing, {name} needs it"


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _file_mistakes(parameter: inspect.Parameter, value: Any, given: Mapping, where: str):
    is_input = "Path" in str(parameter.annotation) and not parameter.name.startswith("out")
    if is_input and isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            yield from _file_mistakes(parameter, entry, given, f"{where}[{number}]")
    if not is_input or not isinstance(value, (str, os.PathLike)):
        return
    candidates = [Path(value)]
    if isinstance(given.get("data_root"), (str, os.PathLike)):
        candidates.append(Path(given["data_root"]) / value)
    if not any(path.exists() for path in candidates):
        yield f"{where}: {candidates[-1]} {ABSENT}"


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _similar(key: str, names) -> str:
    close = difflib.get_close_matches(str(key), [str(name) for name in names], n=1)
    return f", did you mean {close[0]!r}?" if close else ""
