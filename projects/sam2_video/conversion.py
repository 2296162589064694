"""One SAM 2 in three forms: Meta's ``.pt``, a checkpoint of ours, a folder of transformers.

    read (form found out) ─► names of transformers' blocks ─► merge over start weights
                                                                   │ every tensor accounted for
                                 meta | transformers | ours ◄──────┘ written whole or not at all

All three hold the same numbers; nothing is lost on the way. See ``docs/checkpoints.md``.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    Sam2ImageProcessor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
)

from projects.common.checkpoint import State, read_state, save_safetensors
from projects.common.engine.checkpoints import (
    check_frozen,
    frozen_fingerprints,
    load_model,
    read_fingerprints,
    weights_file,
)
from projects.common.freezing import has_lora, merge_lora
from projects.common.whole_file import whole_file
from projects.sam2_video.modeling.blocks import Sam2, build_sam2
from projects.sam2_video.modeling.config import sam2_config
from projects.sam2_video.modeling.meta_weights import to_meta_names
from projects.sam2_video.pretrained import (
    NEVER_READ,
    OUR_PREFIXES,
    POINT_CODES,
    WeightsKind,
    read_sam2_state,
    weights_kind,
)

Form = Literal["meta", "transformers", "ours"]
FORMS = ("meta", "transformers", "ours")
OUR_PREFIX = OUR_PREFIXES[0]
LISTED = 6


@dataclass
class Conversion:
    """What became of every tensor."""

    source: str
    form: Form
    target: str
    to: Form
    model: str  # such as "SAM 2.1 tiny, 7 memory slots"
    matched: int = 0  # tensors of the source that are in the target
    from_start: int = 0  # taken from the start weights
    missing: list[str] = field(default_factory=list)  # the target's, in no source
    unexpected: list[str] = field(default_factory=list)  # the source's, not SAM 2's: left out
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.source} ({self.form}) -> {self.target} ({self.to}): {self.model}",
            f"  {self.matched} matched, {self.from_start} from the start weights, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected",
        ]
        for name in ("missing", "unexpected"):
            if getattr(self, name):
                lines.append(f"  {name}: {_some(getattr(self, name))}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


@dataclass
class _Source:
    """Tensors under transformers' names, and what is known of their model."""

    path: Path
    form: Form
    state: State
    unexpected: list[str]
    config: Sam2VideoConfig | None  # where the file says it
    fingerprints: dict[str, str] = field(default_factory=dict)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Form,
    start: str | Path | None = None,
    trained: nn.Module | None = None,
    image_size: int | None = None,
    force: bool = False,
) -> Conversion:
    """Write the SAM 2 of ``source`` to ``target`` in another form (or the same).

    Args:
        source: a file or folder of any form; which one is found out.
        target: a file (``meta``: ``.pt``; ``ours``: ``.safetensors``), or a folder (transformers).
        start: weights of any form that fill up a checkpoint of trained parts only.
        trained: instead of ``start``: the model of the config that trained ``source``, as built,
            which holds the start weights.
        image_size: side of the square input, for transformers' files; None: the source's, or 1024.
        force: replace what is at ``target``, and convert weights that are not finite.

    Raises:
        FileExistsError: ``target`` is there.
        FileNotFoundError, ValueError: no SAM 2 in ``source``, a part of a model without its rest,
            a rest that it was not trained beside, tensors that do not fit or are not finite, or a
            form that cannot hold this model. Nothing is written then.
    """
    source, target = Path(source), Path(target)
    _check_target(target, to, force)
    found = _read_trained(source, trained) if trained is not None else _read(source)
    report = Conversion(str(source), found.form, str(target), to, "", unexpected=found.unexpected)
    state = dict(found.state)
    own = set(state)
    if start is not None:
        first = _read(Path(start))
        state = first.state | state
        found.config = found.config or first.config
    config = found.config or _released_config(state, found, image_size)
    _complete(state, report)
    _fit(state, config, report, found)
    _check_finite(state, report, force)
    if found.fingerprints:
        _check_start(found, state, config)
    report.matched = sum(key in own for key in state)
    report.from_start = 0 if start is None else len(first.state.keys() - own)
    report.model = _describe(state, config)
    if image_size is not None:
        config = _resized(state, image_size, config)
    if found.form == "meta" and to != "meta":
        report.notes.append(f"the point code is held twice here: {' and '.join(POINT_CODES)}")
    WRITERS[to](target, state, config, report)
    return report


# ---- reading ----------------------------------------------------------------------------------


def _read(path: Path) -> _Source:
    state = read_sam2_state(path)  # refuses what is no SAM 2
    file = _file_of(path)
    keys = list(read_state(file))  # mapped into memory: only names are read here
    for prefix in OUR_PREFIXES:
        if any(key.startswith(prefix) for key in keys):
            others = [key for key in keys if not key.startswith(prefix)]
            prints = read_fingerprints(file) if file.suffix == ".safetensors" else {}
            prints = {
                OUR_PREFIX + name.removeprefix(prefix): value
                for name, value in prints.items()
                if name.startswith(prefix)
            }
            return _Source(path, "ours", state, others, None, prints)
    if any(key.startswith("image_encoder.") for key in keys):
        return _Source(path, "meta", state, [], None)
    config = None
    if (path / "config.json").is_file():
        config = Sam2VideoConfig.from_pretrained(path)
    return _Source(path, "transformers", state, [], config)


def _file_of(path: Path) -> Path:
    if path.is_dir() and not (path / "config.json").is_file():
        return weights_file(path)
    return path


def _read_trained(path: Path, model: nn.Module) -> _Source:
    """A checkpoint of ours through the model of its config."""
    parts = [module for module in model.modules() if isinstance(module, Sam2)]
    if len(parts) != 1:
        raise ValueError(f"the config's model holds {len(parts)} SAM 2s, wanted is one")
    load_model(model, path)
    sam2 = parts[0]
    if has_lora(sam2):
        merge_lora(sam2)
    inside = {id(value) for value in sam2.blocks.state_dict(keep_vars=True).values()}
    others = [
        name for name, value in model.state_dict(keep_vars=True).items() if id(value) not in inside
    ]
    state = {key: value.detach() for key, value in sam2.blocks.state_dict().items()}
    return _Source(path, "ours", state, others, sam2.blocks.config)


def _released_config(state: State, found: _Source, image_size: int | None) -> Sam2VideoConfig:
    kind = weights_kind(state)
    if kind is None:
        raise ValueError(_part_of_a_model(found))
    if kind.size is None:
        raise ValueError(
            f"{found.path} is none of the released sizes: give the config that trained it, or a "
            "transformers folder with its config.json"
        )
    return sam2_config(
        kind.size,
        image_size=image_size or 1024,
        num_maskmem=kind.num_maskmem,
        version=kind.version,
    )


def _part_of_a_model(found: _Source, missing: list[str] | None = None) -> str:
    lacks = "" if missing is None else f" and lacks {len(missing)}: {_some(missing)}"
    return (
        f"{found.path} holds {len(found.state)} tensors of a SAM 2{lacks}. It comes from a run "
        "that trained a part of the model: give the weights that the run started from (--start), "
        "or its config (--config)"
    )


# ---- checking ---------------------------------------------------------------------------------


def _complete(state: State, report: Conversion) -> None:
    """Fill in the twin of the point code and the parameter that nobody reads."""
    for one, other in (POINT_CODES, POINT_CODES[::-1]):
        if one in state and other not in state:
            state[other] = state[one]
            report.notes.append(f"{other} added: the same numbers as {one}")
    if all(code in state for code in POINT_CODES):
        first, second = (state[code] for code in POINT_CODES)
        if not torch.equal(first, second):
            raise ValueError(f"{report.source}: {' and '.join(POINT_CODES)} must be equal")
    width = state.get("no_memory_embedding")
    if NEVER_READ not in state and width is not None:
        state[NEVER_READ] = torch.zeros_like(width)
        report.notes.append(f"{NEVER_READ} added as zeros: no SAM 2 reads it")


def _skeleton(config: Sam2VideoConfig) -> Sam2:
    with torch.device("meta"):
        return build_sam2(config)


def _fit(state: State, config: Sam2VideoConfig, report: Conversion, found: _Source) -> None:
    wanted = _skeleton(config).blocks.state_dict()
    report.missing = [key for key in wanted if key not in state]
    if report.missing:
        raise ValueError(_part_of_a_model(found, report.missing))
    strangers = [key for key in state if key not in wanted]
    if strangers:
        raise ValueError(f"{found.path}: no SAM 2 has these tensors: {_some(strangers)}")
    shapes = [
        f"{key}: {tuple(state[key].shape)}, wanted {tuple(value.shape)}"
        for key, value in wanted.items()
        if state[key].shape != value.shape
    ]
    if shapes:
        raise ValueError(f"{found.path} does not fit its size: {_some(shapes)}")


def _check_finite(state: State, report: Conversion, force: bool) -> None:
    """A run that diverged leaves NaN, which no program that loads the file would complain about."""
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if not broken:
        return
    found = f"{len(broken)} of {len(state)} tensors hold NaN or infinity: {_some(broken)}"
    if not force:
        raise ValueError(
            f"{report.source}: {found}. The run that wrote it diverged, or the file is damaged: "
            "take an earlier checkpoint, or convert it all the same by --force"
        )
    report.notes.append(found)


def _check_start(found: _Source, state: State, config: Sam2VideoConfig) -> None:
    """The frozen parts must be those that the checkpoint was trained beside."""
    model = _skeleton(config)
    model.blocks.load_state_dict(state, assign=True)
    holder = nn.Module()
    holder.sam2 = model.requires_grad_(False)
    check_frozen(found.fingerprints, frozen_fingerprints(holder), str(found.path))


def _kind(state: State) -> WeightsKind:
    kind = weights_kind(state)
    assert kind is not None, "the state was found whole"
    return kind


def _describe(state: State, config: Sam2VideoConfig) -> str:
    kind = _kind(state)
    name = "custom size" if kind.size is None else kind.size
    return f"SAM {kind.version} {name}, {config.num_maskmem} memory slots"


def _resized(state: State, image_size: int, config: Sam2VideoConfig) -> Sam2VideoConfig:
    if config.image_size == image_size:
        return config
    kind = _kind(state)
    if kind.size is None:
        raise ValueError("image_size cannot be changed for a model of no released size")
    return sam2_config(
        kind.size, image_size=image_size, num_maskmem=kind.num_maskmem, version=kind.version
    )


# ---- writing ----------------------------------------------------------------------------------


def _check_target(target: Path, to: Form, force: bool) -> None:
    if to not in FORMS:
        raise ValueError(f"unknown form {to!r}; choose one of {', '.join(FORMS)}")
    suffixes = {"meta": (".pt", ".pth"), "ours": (".safetensors",), "transformers": ("",)}[to]
    if target.suffix not in suffixes and not (to == "transformers" and not target.is_file()):
        wanted = " or ".join(suffixes)
        raise ValueError(f"{target}: a file of the form {to!r} is named {wanted or 'as a folder'}")
    if not target.exists():
        return
    if not force:
        raise FileExistsError(f"{target} exists; choose another name, or replace it by --force")
    if to == "transformers" and not (target / "config.json").is_file():
        raise FileExistsError(f"{target} is no folder of transformers and is not replaced")
    if to != "transformers" and target.is_dir():
        raise FileExistsError(f"{target} is a folder and is not replaced by a file")


def _write_meta(target: Path, state: State, config: Sam2VideoConfig, report: Conversion) -> None:
    if _kind(state).size is None:
        raise ValueError(f"{report.source} is none of Meta's sizes: its code cannot build it")
    named = to_meta_names(state, where=report.source)
    report.notes.append(
        f"{POINT_CODES[0]} left out: Meta's files hold the point code once, as {POINT_CODES[1]}"
    )
    whole = {key: value.contiguous().clone() for key, value in named.items()}
    with whole_file(target) as partial, partial.open("wb") as file:
        torch.save({"model": whole}, file)  # to a path, a full disk would be an internal error


def _write_ours(target: Path, state: State, config: Sam2VideoConfig, report: Conversion) -> None:
    save_safetensors({OUR_PREFIX + key: value for key, value in state.items()}, target)


def _write_transformers(
    target: Path, state: State, config: Sam2VideoConfig, report: Conversion
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        partial.mkdir()
        config.architectures = [Sam2VideoModel.__name__]
        config.save_pretrained(partial)
        side = config.image_size
        assert isinstance(side, int), "the input is a square"
        _processor(side).save_pretrained(partial)
        save_safetensors(state, partial / "model.safetensors", metadata={"format": "pt"})
        if target.exists():
            os.rename(target, old)
        os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    report.notes.append(f"config.json says image_size {config.image_size}")


def _processor(side: int) -> Sam2VideoProcessor:
    size = {"height": side, "width": side}
    return Sam2VideoProcessor(
        image_processor=Sam2ImageProcessor(size=size),
        video_processor=Sam2VideoVideoProcessor(size=size),
        target_size=side,
    )


WRITERS: dict[str, Callable[[Path, State, Sam2VideoConfig, Conversion], None]] = {
    "meta": _write_meta,
    "transformers": _write_transformers,
    "ours": _write_ours,
}


def _some(names: list[str]) -> str:
    """A few names, or the parts that many names belong to."""
    if len(names) <= LISTED:
        return ", ".join(names)
    parts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{part} ({count})" for part, count in parts.most_common(LISTED))
