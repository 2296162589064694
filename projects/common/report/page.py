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
from projects.common.report.results import Results, Stage, write_whole
from projects.common.report.scores import (
    MODEL,
    NO_VISUAL,
    PREFERENCE,
    Table,
    build_tables,
    kind_of,
    limits,
    split_key,
    words,
)

logger = logging.getLogger(__name__)

REPORT = "report.html"
IMAGES_PER_RANK, VIDEOS_PER_RANK = 3, 2
_BOOKKEEPING = ("step", "lr", "time", "data_time", "memory_mb")
_STYLE = Path(__file__).with_name("style.css")
_BASELINE_WORDS = {
    "everything": "everything",
    "largest": "largest object",
    "random": "random object",
}


def write_report(results: Results, environment: Mapping[str, str]) -> Path:
    """Write ``report.html`` into the work directory and return its path.

    Args:
        results: see ``read_results``.
        environment: name -> value rows about the machine and the versions.
    """
    tables = build_tables(results.scores)
    counts = {table.benchmark: _family_counts(results, table.benchmark) for table in tables}
    pictures = _pictures(results)
    sections = {
        "scores": _scores_section(tables, counts),
        "pictures": pictures,
        "limits": _limits_section(tables),
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
        "limits": "What this toy model cannot do",
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
        f"Stages: {stages}. Written {now}.</p>{_tiles(tables)}</div></header>"
        f"<nav><div>{links}</div></nav><main>{body}"
        f"<footer>All scores are fractions from 0 to 1, higher is better; the same numbers are in "
        f"<code>scores.json</code> beside this file.</footer></main></body></html>\n"
    )


def _tiles(tables: list[Table]) -> str:
    tiles = []
    for table in tables:
        metric = table.headline
        if not metric:
            continue
        value = table.overall[metric]
        names = [m for m in PREFERENCE if m in table.overall and m != metric]
        others = [f"{html.escape(m)} {table.overall[m]:.3f}" for m in names]
        baseline = table.best_baseline(None) if metric == table.metric else None
        mark, said = "", ""
        if baseline is not None:
            mark = f'<u style="left:{_percent(baseline[1])}"></u>'
            said = f"<small>trivial: {_variant_words(baseline[0])} {baseline[1]:.3f}</small>"
        tiles.append(
            f'<div class="tile"><small>{html.escape(kind_of(table.benchmark))}</small>'
            f"<b>{value:.3f}</b>"
            f'<div class="meter"><i style="width:{_percent(value)}"></i>{mark}</div>'
            f"<small><code>{html.escape(table.benchmark)}/{html.escape(metric)}</code></small>"
            f"<small>{' · '.join(others[:3])}</small>{said}</div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _scores_section(tables: list[Table], counts: Mapping[str, Mapping[str | None, int]]) -> str:
    return "".join(_score_table(table, counts[table.benchmark]) for table in tables)


def _score_table(table: Table, counts: Mapping[str | None, int]) -> str:
    heads = "".join(f"<th>{_variant_words(variant)}</th>" for variant in table.variants)
    rows = []
    for family in [None, *table.families]:
        if not any((family, variant) in table.cells for variant in table.variants):
            continue
        name = "all" if family is None else f"{html.escape(words(family))}"
        kind = "all" if family is None else "part" if family.startswith("only ") else "family"
        count = counts.get(family)
        cells = "".join(_cell(table.cells.get((family, v)), v) for v in table.variants)
        rows.append(
            f'<tr class="{kind}"><td>{name}</td>'
            f'<td class="number soft">{"" if count is None else count}</td>{cells}</tr>'
        )
    overall = ", ".join(f"{html.escape(m)} {v:.3f}" for m, v in table.overall.items())
    explained = ""
    if table.families:
        explained = (
            '<p class="soft">By what an expression uses: a row holds every expression that uses '
            "it, among other things; the rows 'only ...' those that use exactly that.</p>"
        )
    return (
        f"<h3>{html.escape(kind_of(table.benchmark))} "
        f'<span class="key soft">{html.escape(table.benchmark)}</span></h3>'
        f'<p class="soft">{overall}</p>{explained}'
        f'<div class="card scroll"><table><thead><tr><th>{html.escape(table.metric)}</th>'
        f'<th class="number"><small>n</small></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: float | None, variant: str) -> str:
    if value is None:
        return '<td class="cell soft">–</td>'
    kind = variant if variant in (MODEL, NO_VISUAL) else "baseline"
    return (
        f'<td class="cell {kind}">{value:.3f}'
        f'<div class="meter"><i style="width:{_percent(value)}"></i></div></td>'
    )


def _variant_words(variant: str) -> str:
    if variant == MODEL:
        return "this model"
    if variant == NO_VISUAL:
        return "visual tokens zeroed"
    return html.escape(_BASELINE_WORDS.get(variant, words(variant)))


def _percent(value: float) -> str:
    return f"{100 * min(1.0, max(0.0, value)):.1f}%"


def _family_counts(results: Results, benchmark: str) -> dict[str | None, int]:
    """Records per family, counted as the evaluation does; empty without records."""
    counts: dict[str | None, int] = {}
    for record in results.records.get(benchmark, []):
        uses = sorted(str(use) for use in record.get("uses") or ())
        parts = [*uses, f"only {'+'.join(uses)}"] if uses else []
        for part in [None, *parts]:
            counts[part] = counts.get(part, 0) + 1
    return counts


def _limits_section(tables: list[Table]) -> str:
    found = limits(tables)
    if found:
        intro = "Taken from the scores above: what is low, or close to an answer without thought."
    else:
        intro = "No family of expressions scored low or close to a trivial answer."
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in found)
    return (
        f'<div class="card warn"><p>{intro}</p><ul>{items}<li>Anything outside the drawn world it '
        f"was trained on: these scores say nothing about photographs or films.</li></ul></div>"
    )


def _pictures(results: Results) -> str:
    """Pictures of every benchmark's own records (those of baselines and ablations are left out)."""
    shown = {
        name: rows
        for name, rows in results.records.items()
        if split_key(f"{name}/-")[3] == MODEL and any(map(examples.can_be_shown, rows))
    }
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
    said = html.escape(picture.caption) or "object"
    return (
        f'<figure><img alt="{said}" src="{visualise.data_uri(picture.draw())}">'
        f"<figcaption><q>{said}</q>"
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
        smoothed = charts.smooth(y, max(3, len(y) // 15))
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
    seconds = {stage.name: stage.seconds() for stage in results.stages}
    seconds = {name: value for name, value in seconds.items() if value} | results.timings
    if not seconds:
        return ""
    longest = max(seconds.values())
    rows = "".join(
        f'<tr><td>{html.escape(words(name))}</td><td class="cell">{duration(value)}'
        f'<div class="meter"><i style="width:{_percent(value / longest)}"></i></div></td></tr>'
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
