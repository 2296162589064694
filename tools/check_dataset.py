"""Read all data of a config before it trains: ``tools/check_dataset.py CONFIG``.

A row per training dataset and per benchmark: what there is (images, videos, frames, objects,
expressions, queries, turns, tokens of samples), empty frames, unreadable files, milliseconds a
sample; then the first bad records, and where counts are not the published ones. The exit code is 0
only if all is clean.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import DictAction

import projects  # noqa: F401  (compatibility lines first)
from projects.common import registry
from projects.common.engine.config import load_config, plain
from projects.common.engine.loader import entry_names
from projects.common.inspection import DatasetReport, inspect_dataset, spread
from projects.common.progress import Progress
from projects.common.samplers import Draw
from projects.common.whole_file import whole_file
from projects.llava_sam2.datasets.inspection import RowsInspection
from projects.llava_sam2.datasets.published import differences
from projects.sam2_video.data.inspection import SourceInspection

COLUMNS = (
    "images",
    "videos",
    "frames",
    "objects",
    "expressions",
    "queries",
    "turns",
    "tokens",
    "supervised",
)
FAULTS = ("empty_frames", "unreadable")  # shown always; of the others, those that occur
SAMPLES = 8  # drawn as in training, for the time of a sample


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="path of the config file")
    parser.add_argument("--dataset", nargs="+", help="only these rows, by name")
    parser.add_argument("--limit", type=int, help="records per dataset, spread evenly over it")
    parser.add_argument("--workers", type=int, default=0, help="processes, default none")
    parser.add_argument("--json", type=Path, help="write the report there too")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value ..."
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        tree = plain(load_config(args.config, args.cfg_options))
        rows = chosen_rows(dict(named_data(tree)), args.dataset)
    except (ValueError, OSError) as error:
        sys.exit(f"{args.config}: {error}")
    reports = [check(name, cfg, args.limit, args.workers) for name, cfg in rows.items()]
    sys.stdout.write(table(reports))
    if args.json is not None:
        with whole_file(args.json) as partial:
            partial.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    checked = [report for report in reports if report["state"] != "not checked"]
    return 0 if checked and all(report["state"] == "clean" for report in checked) else 1


def named_data(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Configs of the training datasets (by name, or ``train[0]``, ...) and of the benchmarks.

    Of benchmarks that ask several ways about the same data, the first one.
    """
    entries = tree.get("train_dataloader", {}).get("datasets", [])
    for name, entry in zip(entry_names(entries), entries, strict=True):
        yield name, entry["dataset"]
    seen: list[Any] = []
    for name, cfg in tree.get("benchmarks", {}).items():
        data = cfg.get("rows", cfg.get("source", cfg))
        if data not in seen:
            seen.append(data)
            yield name, cfg


def chosen_rows(rows: dict[str, Any], names: list[str] | None) -> dict[str, Any]:
    unknown = [name for name in names or [] if name not in rows]
    if unknown or not rows:
        raise ValueError(f"no data {unknown or ''}; there is {', '.join(rows) or 'none'}")
    return {name: rows[name] for name in names or rows}


def check(name: str, cfg: dict[str, Any], limit: int | None, workers: int) -> dict[str, Any]:
    """One row of the report; a dataset that cannot even be built is a row with its reason."""
    source = cfg.get("source", cfg.get("rows", {}))
    row = {"name": name, "type": _type_name(source.get("type", cfg["type"]))}
    try:
        registry.check(cfg)
        data, samples = _inspectable(cfg)
    except (ValueError, OSError) as error:
        return row | {"state": "broken", "problems": [str(error)]}
    if data is None:
        return row | {"state": "not checked", "problems": []}
    records = len(spread(len(data), limit))
    with Progress(total=records, description=f"checking {name}") as progress:
        report = inspect_dataset(
            name, data, limit=limit, workers=workers, on_record=lambda _: progress.update()
        )
    row["notes"] = published_notes(cfg.get("rows", {}), data)
    rate = None
    if samples is not None and report.clean:
        rate, report.problems = samples_per_second(samples)
    return row | _as_row(report) | {"samples_per_second": rate}


def published_notes(cfg: dict[str, Any], data: Any) -> list[str]:
    """Where a whole split holds other numbers than were published; no fault of the files."""
    if "type" not in cfg or cfg.get("limit") is not None:
        return []
    return differences(data.rows, reader=_type_name(cfg["type"]), arguments=cfg)


def samples_per_second(dataset: Any) -> tuple[float | None, list[str]]:
    """Draw a few samples as training does: how fast this process makes them, and what fails."""
    problems = []
    start, count = time.perf_counter(), 0
    for seed, index in enumerate(spread(len(dataset), SAMPLES)):
        try:
            dataset[Draw(0, index, seed)]
            count += 1
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return (count / (time.perf_counter() - start) if count else None), problems


def table(reports: list[dict[str, Any]]) -> str:
    counted = {key for row in reports for key in row.get("counts", {})}
    columns = [key for key in COLUMNS if key in counted] + list(FAULTS)
    head = ["dataset", "type", "records", *columns, "ms/sample", "state"]
    lines = [head]
    for row in reports:
        counts = row.get("counts", {})
        cells = [row["name"], row["type"], row.get("records", "")]
        cells += [counts.get(key, "") for key in columns]
        rate = row.get("samples_per_second")
        cells += ["" if rate is None else f"{1000 / rate:.1f}", row["state"]]
        lines.append([str(cell) for cell in cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )
    for row in reports:
        if row["problems"]:
            count = row.get("bad_records", 0)
            text += f"\n{row['name']}: " + (f"{count} bad records, first:\n" if count else "\n")
            text += "".join(f"  {problem}\n" for problem in row["problems"])
        if row.get("notes"):
            text += f"\n{row['name']}, not as published:\n"
            text += "".join(f"  {note}\n" for note in row["notes"])
    return text


def _inspectable(cfg: dict[str, Any]) -> tuple[Any, Any]:
    """What can be inspected, and the dataset that samples are drawn from, where there is one.

    Of a benchmark only the source or the rows are built: the rest may need a model.
    """
    target = registry.resolve(cfg["type"])
    if hasattr(target, "inspect"):
        dataset = registry.build(cfg)
        return dataset, dataset
    if "rows" in cfg:
        rows = registry.build(cfg["rows"])
        if hasattr(target, "__getitem__"):
            dataset = registry.build({**cfg, "rows": rows})
            return RowsInspection(rows, dataset), dataset
        return RowsInspection(rows), None
    if isinstance(cfg.get("source"), dict):
        return SourceInspection(registry.build(cfg["source"])), None
    return None, None


def _as_row(report: DatasetReport) -> dict[str, Any]:
    return {
        "state": "clean" if report.clean else "bad records",
        "records": report.records,
        "counts": dict(report.counts),
        "bad_records": report.bad_records,
        "problems": report.problems,
        "seconds": report.seconds,
    }


def _type_name(target: Any) -> str:
    return target.rsplit(".", 1)[-1] if isinstance(target, str) else target.__name__


if __name__ == "__main__":
    sys.exit(main())
