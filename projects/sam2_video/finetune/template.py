"""The commented page, written from the schema: no second list of keys and defaults."""

from __future__ import annotations

import typing
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from projects.sam2_video.finetune.schema import Lora, Page, Section, SimpleLoss

_HEAD = """\
# Fine-tune SAM 2 from this page:
#
#   python tools/finetune_sam2.py --config THIS_FILE
#
# Every key but those of 'dataset' may be left out; what stands here is the default. Paths count
# from where the command is started. docs/finetune_yaml.md explains the choices.
"""
_COLUMN = 36  # comments start here


def commented_page() -> str:
    """A page that holds every key, with what it means."""
    lines = _HEAD.splitlines() + [""]
    for key, field in Page.model_fields.items():
        section = _section(field)
        if section is None:
            lines += [*_entry(key, field, 0), ""]
            continue
        lines += [_beside(f"{key}:", field.description, 0), *_keys(section, 1)]
        if key == "loss":
            lines += ["  # the light one:", *_commented(_keys(SimpleLoss, 1, {"type": "simple"}))]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _keys(section: type[Section], depth: int, given: dict[str, Any] | None = None) -> list[str]:
    lines = []
    for key, field in section.model_fields.items():
        if key in (given or {}):
            lines.append(f"{'  ' * depth}{key}: {_value(given[key])}")
            continue
        lines += _entry(key, field, depth)
        if field.annotation == Lora | None:
            lines += _commented([f"{'  ' * depth}{key}:", *_keys(Lora, depth + 1)])
    return lines


def _entry(key: str, field: Any, depth: int) -> list[str]:
    value = field.examples[0] if field.examples else field.default
    if value is PydanticUndefined:
        raise TypeError(f"{key} has neither a default nor an example to write")
    indent = "  " * depth
    comment = field.description or ""
    if isinstance(value, dict):
        section = _section(field)
        assert section is not None
        body = _keys(section, depth + 1, value)
        return [_beside(f"{indent}{key}:", comment, depth), *body]
    line = f"{indent}{key}: {_value(value)}"
    if "\n" in comment or len(comment) > 100 - _COLUMN - 2:
        return [*(f"{indent}# {part}" for part in _wrapped(comment, depth)), line]
    return [_beside(line, comment, depth)]


def _beside(line: str, comment: str | None, depth: int) -> str:
    return f"{line:<{_COLUMN}}# {comment}" if comment else line


def _wrapped(comment: str, depth: int) -> list[str]:
    if "\n" in comment:
        return comment.split("\n")
    lines, width = [""], 96 - 2 * depth
    for word in comment.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _commented(lines: list[str]) -> list[str]:
    return [f"# {line}" if not line.startswith("  ") else f"  # {line[2:]}" for line in lines]


def _value(value: Any) -> str:
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _section(field: Any) -> type[Section] | None:
    """The section behind a field; the first one of a choice, as it is the default."""
    kinds = [field.annotation, *typing.get_args(field.annotation)]
    found = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    optional = type(None) in kinds and not field.examples
    return None if optional or not found else typing.cast(type[Section], found[0])
