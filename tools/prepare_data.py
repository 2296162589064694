"""Link a folder of downloads into place and say what is there: ``tools/prepare_data.py [DIR]``.

Without DIR it only says what is there. The exit code is 0 if a dataset is complete and none of them
is incomplete; datasets that are missing altogether are no fault.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import projects  # noqa: F401  (compatibility lines first)
from projects.llava_sam2.downloads.link import (
    COMPLETE,
    INCOMPLETE,
    Linked,
    describe,
    link,
    statuses,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("downloads", nargs="?", type=Path, help="folder of the downloads")
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path(os.environ.get("DATA_ROOT", "data")),
        help="default: DATA_ROOT, or data",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        linked = Linked() if args.downloads is None else link(args.downloads, args.data_root)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    found = statuses(args.data_root)
    sys.stdout.write(describe(linked, found))
    states = {status.state for status in found}
    return 0 if COMPLETE in states and INCOMPLETE not in states and not linked.broken else 1


if __name__ == "__main__":
    sys.exit(main())
