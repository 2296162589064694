"""YAML pages: plain data only, every key once, and the line that each key stands on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from projects.common.registry import ConfigError

KeyPath = tuple[str | int, ...]


class YamlPage(NamedTuple):
    data: dict[str, Any]
    lines: dict[KeyPath, int]  # 1-based, by key path; empty for a page that was not read from text


class _PlainLoader(yaml.SafeLoader):
    """``safe_load`` that reads 1e-4 as a number: YAML 1.1 wants 1.0e-4 and would give a string."""


_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+"
    r"|\.[0-9_]+[eE][-+]?[0-9]+"
    r"|[0-9][0-9_]*\.[0-9_]*|\.[0-9_]+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
)
_PlainLoader.yaml_implicit_resolvers = {  # a copy: the resolvers of SafeLoader stay as they are
    first: [(tag, pattern) for tag, pattern in entries if tag != "tag:yaml.org,2002:float"]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_page(path: str | Path) -> YamlPage:
    """Read a page.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: not YAML, keys given twice (all of them), or no mapping at the top.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; --create-config {path} writes one")
    return parse_page(path.read_text(encoding="utf-8"), where=str(path))


def parse_page(text: str, *, where: str) -> YamlPage:
    """As :func:`read_page`, from text; ``where`` names it in messages."""
    loader = _PlainLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{where}: the page must hold sections such as 'model:', got none")
        lines: dict[KeyPath, int] = {}
        twice: list[str] = []
        _walk(root, (), lines, twice)
        if twice:
            raise ConfigError("\n  ".join([f"{where}: keys given twice:", *twice]))
        data = loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    finally:
        loader.dispose()
    return YamlPage(data, lines)


def _walk(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], twice: list[str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines:
                twice.append(f"line {line}: {dotted(inner)} stands on line {lines[inner]} already")
            lines[inner] = line
            _walk(value, inner, lines, twice)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[(*path, number)] = value.start_mark.line + 1
            _walk(value, (*path, number), lines, twice)


def dotted(path: KeyPath) -> str:
    """``trainer.lr``, ``model.trainable[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def dump_page(data: dict[str, Any]) -> str:
    """A page as YAML text, in the order of its keys; :func:`parse_page` reads it back equal."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
