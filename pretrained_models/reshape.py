"""Give a SAM 2 checkpoint of Meta's another number of memory slots, as SeC's start weights have.

    python pretrained_models/reshape.py --input pretrained_models/sam2.1_hiera_large.pt

writes ``sam2.1_hiera_large_maskmem_22.pt`` beside the input. Only ``maskmem_tpos_enc`` changes: it
is resampled along the memory slots (linear, first and last slot kept).
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script from anywhere

from projects.common.checkpoint import read_state  # noqa: E402
from projects.common.whole_file import whole_file  # noqa: E402
from projects.sam2_video.modeling.meta_weights import (  # noqa: E402
    from_meta_names,
    resample_memory_slots,
)

TABLE = "maskmem_tpos_enc"
HERE = Path(__file__).resolve().parent
log = logging.getLogger("reshape")


def reshape(source: Path, *, slots: int, output: Path, force: bool = False) -> tuple[int, int]:
    """Write ``source`` with ``slots`` memory slots to ``output``.

    Returns:
        slots before and after.

    Raises:
        FileExistsError: ``output`` is there and ``force`` is not given.
        FileNotFoundError, ValueError: no such input, or it is not a SAM 2 checkpoint of Meta's.
    """
    if output.exists() and not force:
        raise FileExistsError(f"{output} exists; choose another --output, or overwrite by --force")
    state = read_state(source)
    from_meta_names(state, where=str(source))  # refuses what is not SAM 2
    before = len(state[TABLE]) if TABLE in state else 0
    if not before:
        raise ValueError(f"{source} is not a SAM 2 checkpoint for video: it lacks {TABLE}")
    state[TABLE] = resample_memory_slots(state[TABLE], slots)
    with whole_file(output) as partial, partial.open("wb") as file:
        torch.save({"model": state}, file)  # to a path, a full disk would be an internal error
    return before, slots


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--input", type=Path, default=HERE / "sam2.1_hiera_large.pt")
    parser.add_argument("--num-maskmem", type=int, default=22, help="memory slots (default: 22)")
    parser.add_argument(
        "--output", type=Path, help="default: <input>_maskmem_<slots>.pt beside the input"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    options = parser.parse_args(arguments)
    output = options.output or options.input.with_name(
        f"{options.input.stem}_maskmem_{options.num_maskmem}.pt"
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        before, after = reshape(
            options.input, slots=options.num_maskmem, output=output, force=options.force
        )
    except (ValueError, OSError) as error:
        log.error("%s", error)
        return 1
    log.info("%s: %d memory slots -> %d, written to %s", TABLE, before, after, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
