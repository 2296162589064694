"""The report as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import datetime
import html
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projects.common import visualise
from projects.common.progress import Progress, duration
from projects.common.report import charts, examples
from projects.common.report.page_scores import (
    is_toy,
    limits_section,
    percent,
    score_tiles,
    scores_section,
)
from projects.common.report.results import Results, Stage, write_whole
from projects.common.report.scores import (
    KINDS,
    MODEL,
    Table,
    build_tables,
    display_order,
    kind_index,
    kind_of,
    split_key,
    words,
)

logger = logging.getLogger(__name__)

REPORT = "report.html"
IMAGES_PER_RANK, VIDEOS_PER_RANK = 3, 2
_BOOKKEEPING = ("step", "epoch", "lr", "time", "data_time", "memory_mb", "samples_per_second")
_STYLE = Path(__file__).with_name("style.css")


def write_report(results: Results, environment: Mapping[str, str]) -> Path:
    """Write ``report.html`` into the work directory and return its path.

    Args:
        results: see ``read_results``.
        environment: name -> value rows about the machine and the versions.
    """
    tables = build_tables(results.scores)
    counts = results.family_counts()
    pictures = _pictures(results)
    sections = {
        "scores": scores_section(tables, counts),
        "pictures": pictures,
        "limits": limits_section(tables, counts),
        "training": _training_section(results.stages),
        "run": _run_section(results, environment),
        "notes": _notes_section(results.notes),
    }
    page = _page(results, tables, sections)
    return write_whole(results.folder / REPORT, page.encode("utf-8"))


def _page(results: Results, tables: list[Table], sections: Mapping[str, str]) -> str:
    titles = {
        "pictures": "What it sees",
        "scores": "Scores",
        "limits": f"What this {'toy ' if is_toy(tables) else ''}model cannot do",
        "training": "Training",
        "run": "Time, machine and settings",
        "notes": "Missing parts",
    }
    shown = {name: title for name, title in titles.items() if sections[name]}
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in shown.items())
    body = "".join(
        f'<section id="{name}"><h2>{title}</h2>{sections[name]}</section>'
        for name, title in shown.items()
    )
    name = html.escape(results.folder.resolve().name)
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    stages = ", ".join(html.escape(stage.name) for stage in results.stages) or "no stages"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Results: {name}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><header><div><h1>Results: {name}</h1>"
        f'<p class="soft">What (text), where (masks) and when (time), measured on held-out data. '
        f"Stages: {stages}. Written {now}.</p>{score_tiles(tables)}</div></header>"
        f"<nav><div>{links}</div></nav><main>{body}"
        f"<footer>All scores are fractions from 0 to 1, higher is better; the same numbers are in "
        f"<code>scores.json</code> beside this file.</footer></main></body></html>\n"
    )


def _pictures(results: Results) -> str:
    """Pictures of the model's own records; those of baselines and ablations are left out."""
    shown = _pictured(results)
    with Progress(total=len(shown), description="Drawing examples") as progress:
        parts = []
        for name, rows in shown.items():
            parts.append(_benchmark_pictures(name, rows, results.notes))
            progress.update()
    if not parts:
        return ""
    orange, green = (
        f"#{''.join(f'{channel:02x}' for channel in colour)}"
        for colour in (visualise.PREDICTION, visualise.TRUTH)
    )
    legend = (
        f'<p class="legend"><span><i class="dot" style="background:{orange}"></i>prediction</span>'
        f'<span><i class="dot" style="background:{green}"></i>ground truth</span></p>'
        '<p class="soft">Chosen by rank of score alone, not by hand.</p>'
    )
    return legend + "".join(parts)


def _pictured(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Records to draw: one benchmark of each kind, as RefCOCO's test splits would repeat it."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(results.records, key=display_order):
        rows = results.records[name]
        alike = kind_index(name) < len(KINDS) and kind_index(name) in map(kind_index, shown)
        if split_key(f"{name}/-")[3] != MODEL or alike:
            continue
        if any(map(examples.can_be_shown, rows)):
            shown[name] = rows
    return shown


def _benchmark_pictures(name: str, rows: list[dict[str, Any]], notes: list[str]) -> str:
    is_video = any("video" in row for row in rows)
    count = VIDEOS_PER_RANK if is_video else IMAGES_PER_RANK
    parts = [
        f'<h3>{html.escape(kind_of(name))} <span class="key soft">{html.escape(name)}</span></h3>'
    ]
    for rank, records in examples.select(rows, count).items():
        figures = [_figure(record, name, notes) for record in records]
        figures = [figure for figure in figures if figure]
        if figures:
            wide = " wide" if is_video else ""
            parts.append(f"<h4>{examples.RANK_WORDS[rank]}</h4>")
            parts.append(f'<div class="pictures{wide}">{"".join(figures)}</div>')
    return "".join(parts)


def _figure(record: dict[str, Any], name: str, notes: list[str]) -> str:
    try:
        picture = examples.load(record, f"{name}, record {record.get('key', '?')}")
    except (FileNotFoundError, ValueError) as error:
        notes.append(f"A picture is missing: {error}")
        return ""
    uses = ", ".join(picture.uses)
    said = html.escape(picture.caption)
    return (
        f'<figure><img alt="{said}" src="{visualise.data_uri(picture.draw())}">'
        f"<figcaption>{f'<q>{said}</q>' if picture.is_said else said}"
        f"<span>{picture.metric} {picture.score:.2f}{' · ' if uses else ''}{html.escape(uses)}"
        f"</span></figcaption></figure>"
    )


def _training_section(stages: list[Stage]) -> str:
    return "".join(_stage_charts(stage) for stage in stages if stage.steps)


def _stage_charts(stage: Stage) -> str:
    numbers = dict.fromkeys(
        k for row in stage.steps for k, v in row.items() if not isinstance(v, str)
    )
    keys = [key for key in numbers if key not in _BOOKKEEPING] + [
        k for k in ("lr",) if k in numbers
    ]
    cards = "".join(
        f'<div class="card"><h4>{html.escape(key)}</h4>{_chart(stage, key)}</div>' for key in keys
    )
    last = int(max(row["step"] for row in stage.steps))
    return (
        f'<h3>{html.escape(stage.name)} <span class="soft">{last} steps</span></h3>'
        f'<div class="charts">{cards}</div>'
    )


def _chart(stage: Stage, key: str) -> str:
    """One logged value over the steps; a line of its own for each task that logs it."""
    rows = [row for row in stage.steps if key in row]
    tasks = list(dict.fromkeys(row.get("task", "") for row in rows)) if key != "lr" else [None]
    series = []
    for colour, task in enumerate(tasks, start=1):
        own = [row for row in rows if task is None or row.get("task", "") == task]
        x, y = [row["step"] for row in own], [row[key] for row in own]
        name = task if task and len(tasks) > 1 else "smoothed"
        colour = (colour - 1) % charts.COLOURS + 1
        if task is None or len(y) < 20:
            series.append(charts.Series(name if task else key, x, y, colour=colour))
            continue
        if len(tasks) == 1:
            series.append(charts.Series("logged", x, y, colour=colour, faint=True))
        smoothed = charts.smooth(y, max(3, len(y) // 10))
        series.append(charts.Series(name, x, smoothed, colour=colour))
    return charts.line_chart(series, title=f"{stage.name}: {key}")


def _run_section(results: Results, environment: Mapping[str, str]) -> str:
    parts = [_times(results)]
    if environment:
        rows = "".join(
            f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>"
            for key, value in environment.items()
        )
        parts.append(f'<h3>Machine and versions</h3><div class="card"><dl>{rows}</dl></div>')
    for stage in results.stages:
        if stage.config is not None:
            parts.append(
                f"<details><summary>Settings of {html.escape(stage.name)}</summary>"
                f"<pre>{html.escape(stage.config)}</pre></details>"
            )
    return "".join(parts)


def _times(results: Results) -> str:
    trained = {stage.name: stage.seconds() for stage in results.stages}
    seconds = {name: value for name, value in trained.items() if value} | results.timings
    if not seconds:
        return ""
    longest = max(seconds.values())
    rows = "".join(
        f'<tr><td>{html.escape(words(name))}</td><td class="cell">{duration(value)}'
        f'<div class="meter"><i style="width:{percent(value / longest)}"></i></div></td></tr>'
        for name, value in seconds.items()
    )
    total = duration(sum(seconds.values()))
    return (
        f'<div class="card scroll"><table><thead><tr><th>Part</th><th>Time</th></tr></thead>'
        f"<tbody>{rows}<tr><td>in all</td><td>{total}</td></tr></tbody></table></div>"
    )


def _notes_section(notes: list[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<div class="card notes"><ul>{items}</ul></div>'
