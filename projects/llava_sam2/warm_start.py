"""Start the grounded model's SAM 2 from an earlier stage."""

from __future__ import annotations

import logging
from pathlib import Path

from projects.common.checkpoint import Rename, load_state, read_state
from projects.common.engine.checkpoints import weights_file
from projects.sam2_video.modeling import Sam2

logger = logging.getLogger(__name__)

# Meta's model has this parameter too and never reads it; it is not trained, so not saved
UNTRAINED = ("blocks.no_memory_positional_encoding",)


def sam2_from_stage1(*, sam2: Sam2, checkpoint: str | Path | None) -> Sam2:
    """``sam2`` with the weights that ``Sam2VideoTraining`` trained.

    Args:
        sam2: of the same size.
        checkpoint: work_dir, checkpoint folder or weights file of stage 1; None or "" leaves
            ``sam2`` as it is, which the log says.

    Raises:
        FileNotFoundError, ValueError: nothing there, or weights of another model.
    """
    if not checkpoint:
        logger.warning("SAM 2 starts without stage 1: no checkpoint is configured")
        return sam2
    file = weights_file(checkpoint)
    report = load_state(
        sam2,
        read_state(file),
        rules=[Rename(r"sam2\.(.*)", r"\1")],
        allow_missing=UNTRAINED,
        where=str(file),
    )
    logger.info("SAM 2 starts from stage 1: %s", report)
    return sam2
