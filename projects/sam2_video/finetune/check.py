"""A page's data to a checked ``Page``: every mistake at once, in the words of the page."""

from __future__ import annotations

import copy
import difflib
import importlib.util
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from projects.common.registry import raise_mistakes
from projects.sam2_video.finetune.schema import Page
from projects.sam2_video.finetune.yaml_page import KeyPath, YamlPage, dotted

_UNIONS = ("loss",)  # pydantic puts the name of the chosen section behind these keys
_WANTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
}
# what stands in for a bad choice, so that nothing is missed only because of the default's needs
_STAND_INS: dict[KeyPath, str] = {("model", "size"): "toy", ("dataset", "type"): "folder"}
_MENDS = {
    ("model", "checkpoint"): "; pretrained_models/README.md says where the released ones are",
}
_PATHS: tuple[KeyPath, ...] = (
    ("model", "checkpoint"),
    *(("dataset", key) for key in ("images", "annotations", "names", "exclude")),
    *(("dataset", "val", key) for key in ("images", "annotations", "names")),
)


def check_page(page: YamlPage) -> Page:
    """Check a page whole: keys, values, what excludes each other, and files that must be there.

    Raises:
        ConfigError: all mistakes, each with its line, key path, what was given and what may be.
    """
    found: dict[tuple[KeyPath, str], str] = {}
    data = copy.deepcopy(page.data)
    checked = None
    while checked is None:
        try:
            checked = Page.model_validate(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            before = len(found)
            for entry in errors:
                path = _page_path(entry["loc"])
                found.setdefault((path, entry["type"]), _message(path, entry, page))
            # what the bad values hide (checks of a whole section) shows once they are gone
            removed = [
                _remove(data, _page_path(entry["loc"]))
                for entry in reversed(errors)  # later entries of a list first
                if entry["type"] != "value_error"
            ]
            if len(found) == before or not any(removed):
                break
    mistakes = [*found.values(), *_conflicts(page), *_missing_paths(page), *_missing_packages(page)]
    raise_mistakes(mistakes)
    assert checked is not None
    return checked


def _page_path(loc: tuple[str | int, ...]) -> KeyPath:
    return (loc[0], *loc[2:]) if loc and loc[0] in _UNIONS else loc


def _message(path: KeyPath, entry: dict[str, Any], page: YamlPage) -> str:
    return f"{_where(path, page)}: {_words(path, entry)}"


def _where(path: KeyPath, page: YamlPage) -> str:
    line = page.lines.get(path)
    name = dotted(path) or "page"
    return name if line is None else f"line {line}, {name}"


def _words(path: KeyPath, entry: dict[str, Any]) -> str:
    kind, given = entry["type"], entry.get("input")
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        return f"unknown key{_nearest_key(entry['loc'])}"
    if kind == "literal_error":
        allowed = [part.strip("' ") for part in _expected(entry).split(",")]
        return f"{given!r} is none of {', '.join(allowed)}{_nearest(given, allowed)}"
    if kind.startswith("union_tag"):
        given = given.get("type") if isinstance(given, dict) else given
        return f"type {given!r} is none of multi_step, simple"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"a section with keys of its own is wanted, got {given!r}"
    if kind == "value_error":
        return entry["msg"].removeprefix("Value error, ")
    wanted = _WANTED.get(kind) or entry["msg"].removeprefix("Input should be ")
    return f"{given!r} is given, it should be {wanted.replace('greater than or equal to', '>=')}"


def _expected(entry: dict[str, Any]) -> str:
    return entry["ctx"]["expected"].replace(" or ", ", ")


def _nearest(given: Any, allowed: list[str]) -> str:
    close = difflib.get_close_matches(str(given), allowed, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _nearest_key(loc: KeyPath) -> str:
    """The section that has a key of that name, or the nearest key of the section it stands in."""
    key = str(loc[-1])
    here = _page_path(loc)[:-1]
    places = _all_sections()
    homes = [dotted((*place, key)) for place, keys in places if key in keys and place != here]
    if homes:
        return f", did you mean {homes[0]!r}?"
    keys = [name for section in _sections_at(loc[:-1]) for name in section.model_fields]
    return _nearest(key, keys) or f"; known are {', '.join(keys)}"


def _sections_at(loc: KeyPath) -> list[type[BaseModel]]:
    """What may stand at a path: one section, or those of a choice that ``loc`` leaves open."""
    sections: list[type[BaseModel]] = [Page]
    for key in loc:
        fields = [s.model_fields[key] for s in sections if key in s.model_fields]
        chosen = [s for s in sections if _tag(s) == key]
        sections = chosen or [part for field in fields for part in _models(field.annotation)]
    return sections


def _tag(section: type[BaseModel]) -> Any:
    """The name by which a section is chosen (``type: simple``)."""
    kind = section.model_fields.get("type")
    return None if kind is None else typing.get_args(kind.annotation)[0]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for inner in typing.get_args(annotation) for part in _models(inner)]
    return []


def _all_sections(path: KeyPath = ()) -> list[tuple[KeyPath, set[str]]]:
    found = []
    for section in _sections_at(path):
        found.append((path, set(section.model_fields)))
        for key, field in section.model_fields.items():
            if _models(field.annotation):
                found += _all_sections((*path, key))
    return found


def _remove(data: Any, path: KeyPath) -> bool:
    """Take a bad value out of the data; its default, or what asks least, stands in for it."""
    for key in path[:-1]:
        if not isinstance(data, (dict, list)):
            return False
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return False
    if isinstance(data, dict) and path in _STAND_INS:
        data[path[-1]] = _STAND_INS[path]
        return True
    if isinstance(data, dict):
        return bool(path) and data.pop(path[-1], data) is not data
    if isinstance(data, list) and isinstance(path[-1], int) and path[-1] < len(data):
        del data[path[-1]]
        return True
    return False


def _get(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _conflicts(page: YamlPage) -> list[str]:
    patience, held = _get(page.data, ("trainer", "patience")), _get(page.data, ("dataset", "val"))
    if patience is None or held is not None:
        return []
    return [f"{_where(('trainer', 'patience'), page)}: nothing is scored without dataset.val"]


def _missing_paths(page: YamlPage) -> list[str]:
    given = [(path, _get(page.data, path)) for path in _PATHS]
    return [
        f"{_where(path, page)}: {value} does not exist{_MENDS.get(path, '')}"
        for path, value in given
        if isinstance(value, str) and not Path(value).exists()
    ]


def _missing_packages(page: YamlPage) -> list[str]:
    wanted = _get(page.data, ("trainer", "wandb"))
    if wanted is None or importlib.util.find_spec("wandb") is not None:
        return []
    where = _where(("trainer", "wandb"), page)
    return [f"{where}: the package wandb is not installed: pip install wandb, or --no-wandb"]
