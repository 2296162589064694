"""Merge the scores of a work directory and write its report.

``python tools/report.py WORK_DIR [--picture overview.png]`` writes ``WORK_DIR/scores.json`` and
``WORK_DIR/report.html`` (one file, works offline), and prints the main scores.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from projects.common.report import (  # noqa: E402
    Results,
    build_tables,
    find_limits,
    limits_sentence,
    read_results,
    write_overview,
    write_report,
    write_scores,
)


def environment() -> dict[str, str]:
    """Rows about this machine, from ``tools/env.py``."""
    command = [sys.executable, str(ROOT / "tools" / "env.py"), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = {"Python": found["python"], "Platform": found["platform"]}
    for device in found["devices"]:
        parts = [f"{device[key]} {unit}" for key, unit in _UNITS.items() if key in device]
        rows[device["name"]] = ", ".join(parts) or device.get("problem", "")
    rows["Versions"] = ", ".join(f"{k} {v}" for k, v in found["versions"].items() if v)
    return rows


_UNITS = {"cores": "cores", "memory_gb": "GB"}


def main_scores(results: Results) -> str:
    """The overall scores of each benchmark as an aligned table."""
    rows = [
        (f"{table.benchmark}/{metric}", f"{value:.3f}")
        for table in build_tables(results.scores)
        for metric, value in table.overall.items()
    ]
    width = max((len(key) for key, _ in rows), default=0)
    return "".join(f"  {key.ljust(width)}  {value}\n" for key, value in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write a work directory's scores and report.")
    parser.add_argument("work_dir", type=Path)
    parser.add_argument(
        "--picture", type=Path, help="also compose one picture (PNG) of good examples"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        results = read_results(options.work_dir)
        write_scores(results)
        report = write_report(results, environment())
        picture = write_overview(results, options.picture) if options.picture else None
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"report: {error}\n")
        return 1
    sentence = limits_sentence(find_limits(build_tables(results.scores), results.family_counts()))
    sys.stdout.write(f"Scores\n{main_scores(results)}{sentence}\nReport: {report}\n")
    if picture is not None:
        sys.stdout.write(f"Picture: {picture}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
