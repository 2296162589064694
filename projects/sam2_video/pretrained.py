"""A released or trained SAM 2 from its weights, whichever of three forms they have.

    Meta's .pt ──────────────┐
    our work_dir, iter_N.pth ┼─► names of transformers' blocks ─► memory slots, version ─► Sam2
    transformers' folder ────┘

The file is mapped into memory, not read as a whole, so that loading holds the weights once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from projects.common.checkpoint import INDEX_NAME, LoadReport, State, load_state, read_state
from projects.common.engine.checkpoints import weights_file
from projects.sam2_video.modeling.blocks import Sam2, build_sam2
from projects.sam2_video.modeling.config import SIZES, sam2_config
from projects.sam2_video.modeling.meta_weights import from_meta_names, resample_memory_slots

logger = logging.getLogger(__name__)

DOWNLOAD = "https://dl.fbaipublicfiles.com/segment_anything_2/{folder}/{file}"
RELEASES = {"2.1": ("092824", "sam2.1_hiera_{size}.pt"), "2.0": ("072824", "sam2_hiera_{size}.pt")}
OUR_PREFIXES = ("sam2.blocks.", "grounding.blocks.")  # of Sam2VideoTraining, of the grounded model

TEMPORAL = "memory_temporal_positional_encoding"
PATCH = "vision_encoder.backbone.patch_embed.projection.weight"
BLOCK = "vision_encoder.backbone.blocks."
POINT_CODES = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
ONLY_IN_2_1 = (
    "occlusion_spatial_embedding_parameter",
    "temporal_positional_encoding_projection_layer.weight",
    "temporal_positional_encoding_projection_layer.bias",
)
NEVER_READ = "no_memory_positional_encoding"  # nothing trains it, so our checkpoints lack it


class WeightsKind(NamedTuple):
    """What the tensors of a file tell about their model."""

    size: str | None  # None: not one of the released sizes
    version: str  # "2.0" or "2.1"
    num_maskmem: int


def pretrained_sam2(
    *,
    size: str,
    checkpoint: str | Path | None,
    version: str = "2.1",
    image_size: int = 1024,
    num_maskmem: int = 7,
    drop_path: float = 0.0,
    dropout: float = 0.1,
    compile: bool = False,
    checkpointing: bool | Sequence[str] = False,
) -> Sam2:
    """SAM 2 of a released size with the weights of ``checkpoint``.

    Args:
        size: ``tiny``, ``small``, ``base_plus`` or ``large``.
        checkpoint: Meta's ``.pt``, a work dir, checkpoint folder or weights file of ours, or a
            folder of transformers; None: random weights.
        version: ``2.1`` or ``2.0``. A 2.0 file in a 2.1 model leaves the additions of 2.1 at zero,
            so that it starts as the 2.0 model that it is; the log says so.
        image_size: side of the square input in pixels, a multiple of 32.
        num_maskmem: memory slots; another number than the file's resamples its temporal table
            (linear, first and last slot kept), and the log says so.
        drop_path: stochastic depth of the image encoder while training.
        dropout: of the memory attention while training.
        compile: ``torch.compile`` of the costly parts; where that fails, they run as they are.
        checkpointing: parts that keep no activations and are recomputed in backward; see
            ``Sam2.set_checkpointing``.

    Raises:
        FileNotFoundError: no such checkpoint; the message says where to download it.
        ValueError: weights of another size or model, a 2.1 file for a 2.0 model, or a checkpoint
            that holds only a part of the model.
    """
    config = sam2_config(
        size, image_size=image_size, num_maskmem=num_maskmem, version=version, dropout=dropout
    )
    state = None if checkpoint is None else read_sam2_state(checkpoint)
    if state is not None:  # before the model is built, which takes longer
        _check_size(state, size, where=str(checkpoint))
    model = build_sam2(config, drop_path=drop_path, checkpointing=checkpointing)
    if state is not None:
        load_sam2_state(model, state, version=version, where=str(checkpoint))
    if compile:
        model.compile_parts()
    return model


def read_sam2_state(path: str | Path) -> State:
    """The tensors of a SAM 2 under the names of transformers' ``Sam2VideoModel``.

    Raises:
        FileNotFoundError, ValueError: nothing there, or no SAM 2.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no SAM 2 checkpoint at {path}{_where_to_get(path.name)}")
    whole = path if (path / INDEX_NAME).is_file() or path.is_file() else weights_file(path)
    state = read_state(whole)
    if any(key.startswith("image_encoder.trunk.") for key in state):
        return from_meta_names(state, where=str(path))
    for prefix in OUR_PREFIXES:
        inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if inner:
            return inner
    if PATCH in state:
        return state
    raise ValueError(
        f"{path} is not a SAM 2 checkpoint: it has keys like {', '.join(sorted(state)[:3])}; "
        "wanted are Meta's .pt, a checkpoint of this project, or a folder of transformers"
    )


def weights_kind(state: State) -> WeightsKind | None:
    """Size, version and memory slots of a state under transformers' names.

    None where it lacks the image encoder or the temporal table: a part of a model.
    """
    if PATCH not in state or TEMPORAL not in state:
        return None
    width = state[PATCH].shape[0]
    blocks = 1 + max(int(key[len(BLOCK) :].split(".")[0]) for key in state if key.startswith(BLOCK))
    fitting = [n for n, s in SIZES.items() if (s.embed_dim, sum(s.blocks)) == (width, blocks)]
    version = "2.1" if any(key in state for key in ONLY_IN_2_1) else "2.0"
    return WeightsKind(fitting[0] if fitting else None, version, len(state[TEMPORAL]))


def load_sam2_state(model: Sam2, state: State, *, version: str, where: str) -> LoadReport:
    """Load a state under transformers' names; all but what is explained must line up.

    Raises:
        ValueError: as :func:`pretrained_sam2`; nothing is loaded then.
    """
    state, notes = dict(state), list[str]()
    own = model.blocks.state_dict()
    _fill_twin(state)
    _fill_additions(state, own, version, where, notes)
    _resample(state, model.num_maskmem, notes)
    if NEVER_READ not in state:
        state[NEVER_READ] = own[NEVER_READ]
    _refuse_part(state, own, where)
    report = load_state(model.blocks, state, where=where)
    report.notes += notes
    for note in notes:
        logger.warning("%s: %s", where, note)
    logger.info("%s", report)
    return report


def _fill_twin(state: State) -> None:
    """The matrix of the point code is stored once by some and twice by others."""
    for one, other in (POINT_CODES, POINT_CODES[::-1]):
        if one in state:
            state.setdefault(other, state[one])


def _fill_additions(state: State, own: State, version: str, where: str, notes: list[str]) -> None:
    kind = weights_kind(state)
    if kind is None or kind.version == version:
        return
    if kind.version == "2.1":
        raise ValueError(
            f"{where} is a SAM 2.1 checkpoint and the model is a SAM 2.0, which has no place for "
            f"{', '.join(ONLY_IN_2_1)}: build it with version='2.1'"
        )
    state |= {key: own[key].new_zeros(own[key].shape) for key in ONLY_IN_2_1}
    notes.append(
        "a SAM 2.0 checkpoint in a SAM 2.1 model: it lacks no_obj_embed_spatial and "
        "obj_ptr_tpos_proj, which start at zero, so that the model begins as the 2.0 one; "
        "version='2.0' builds it without them"
    )


def _resample(state: State, slots: int, notes: list[str]) -> None:
    table = state.get(TEMPORAL)
    if table is not None and len(table) != slots:
        state[TEMPORAL] = resample_memory_slots(table, slots)
        notes.append(
            f"maskmem_tpos_enc: {len(table)} memory slots resampled to {slots} "
            "(linear, ends aligned: first and last slot kept)"
        )


def _check_size(state: State, size: str, *, where: str) -> None:
    kind = weights_kind(state)
    if kind is not None and kind.size != size:
        found = f"size {kind.size!r}" if kind.size else "none of the released sizes"
        raise ValueError(
            f"{where} holds a SAM 2 of {found}, the model is built as {size!r}: give another "
            "checkpoint or size"
        )


def _refuse_part(state: State, own: State, where: str) -> None:
    missing = [key for key in own if key not in state]
    if missing and len(missing) < len(own):
        parts = sorted({key.split(".")[0] for key in missing})
        raise ValueError(
            f"{where} holds {len(own) - len(missing)} of the model's {len(own)} tensors and lacks "
            f"some of {', '.join(parts)}: it comes from a run that trained a part of the model. "
            "Load it through that run's config, which names the weights that it started from, or "
            "make a whole checkpoint of it by tools/convert_sam2.py"
        )


def _where_to_get(name: str) -> str:
    """A hint for a missing file that has the name of a released one."""
    for folder, pattern in RELEASES.values():
        if name in (pattern.format(size=size) for size in SIZES):
            return f"; download it from {DOWNLOAD.format(folder=folder, file=name)}"
    if "maskmem" in name:
        return "; make it by python pretrained_models/reshape.py"
    return "; give Meta's .pt, a checkpoint of this project, or a folder of transformers"
