"""Pack predictions for a benchmark's server.

``tools/make_submission.py work_dirs/X/predictions/mevis_valid.jsonl mevis.zip --layout mevis``
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import projects  # noqa: E402, F401  (compatibility lines first)
from projects.llava_sam2.evaluation.submission import LAYOUTS, write_submission  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack predictions for a benchmark's server.")
    parser.add_argument("records", help="predictions/<benchmark>.jsonl of an evaluation")
    parser.add_argument("out", help="the zip to write")
    parser.add_argument("--layout", choices=sorted(LAYOUTS), required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        count = write_submission(arguments.records, arguments.out, layout=arguments.layout)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    logging.info("%s: %d expressions", arguments.out, count)


if __name__ == "__main__":
    main()
