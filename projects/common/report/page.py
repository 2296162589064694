"""The report as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import datetime
import html
import logging
from collections.abc import Mapping, Sequence
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
    UNMOVED,
    Table,
    baseline_words,
    build_tables,
    family_words,
    find_limits,
    kind_index,
    kind_of,
    limits_sentence,
    split_key,
    words,
)

logger = logging.getLogger(__name__)

REPORT = "report.html"
IMAGES_PER_RANK, VIDEOS_PER_RANK = 3, 2
_BOOKKEEPING = ("step", "lr", "time", "data_time", "memory_mb")
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
        "scores": _scores_section(tables, counts),
        "pictures": pictures,
        "limits": _limits_section(tables, counts),
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
            said = f"<small>trivial answer: {_variant_words(baseline[0])} {baseline[1]:.3f}</small>"
        tiles.append(
            f'<div class="tile"><small>{html.escape(kind_of(table.benchmark))}</small>'
            f"<b>{value:.3f}</b>"
            f'<div class="meter"><i style="width:{_percent(value)}"></i>{mark}</div>'
            f"<small><code>{html.escape(table.benchmark)}/{html.escape(metric)}</code></small>"
            f"<small>{' · '.join(others[:3])}</small>{said}</div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _scores_section(tables: list[Table], counts: Mapping[str, Mapping[str | None, int]]) -> str:
    compared = [table for table in tables if len(table.cells) > 1]
    single = [table for table in tables if len(table.cells) <= 1]
    parts = [_score_table(table, counts.get(table.benchmark, {})) for table in compared]
    if single:
        parts.append(_single_scores(single))
    return "".join(parts)


def _score_table(table: Table, counts: Mapping[str | None, int]) -> str:
    """The leading metric: families down, this model and what it is compared with across."""
    title = (
        f"<h3>{html.escape(kind_of(table.benchmark))} "
        f'<span class="key soft">{html.escape(table.benchmark)}</span></h3>'
        f'<p class="soft">{_overall(table)}</p>'
    )
    rows = _table_rows(table, [None, *table.plain_families], counts)
    if not table.combined_families:
        return f'{title}<div class="card">{rows}</div>'
    combined = _table_rows(table, table.combined_families, counts)
    return (
        f'{title}<p class="soft">By what an expression uses: among other things, or alone.</p>'
        f'<div class="card">{rows}<details><summary>By exact combination</summary>{combined}'
        f"</details></div>"
    )


def _table_rows(
    table: Table, families: Sequence[str | None], counts: Mapping[str | None, int]
) -> str:
    heads = "".join(f"<th>{_variant_words(variant)}</th>" for variant in table.variants)
    rows = []
    for family in families:
        kind = "all" if family is None else "alone" if family.startswith("only ") else "family"
        cells = "".join(_cell(table.cells.get((family, v)), v) for v in table.variants)
        rows.append(
            f'<tr class="{kind}"><td>{html.escape(family_words(family))}</td>'
            f'<td class="number soft">{counts.get(family, "")}</td>{cells}</tr>'
        )
    return (
        f'<div class="scroll"><table><thead><tr><th>{html.escape(table.metric)}</th>'
        f'<th class="number"><small>n</small></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _single_scores(tables: Sequence[Table]) -> str:
    """Benchmarks without anything to compare with: a line each."""
    rows = "".join(
        f"<tr><td>{html.escape(kind_of(table.benchmark))}</td>"
        f"<td><code>{html.escape(table.benchmark)}</code></td><td>{_overall(table)}</td></tr>"
        for table in tables
    )
    return f'<h3>Others</h3><div class="card scroll"><table><tbody>{rows}</tbody></table></div>'


def _overall(table: Table) -> str:
    order = [*(m for m in PREFERENCE if m in table.overall), *table.overall]
    names = dict.fromkeys(order)
    return " · ".join(f"{html.escape(m)} <b>{table.overall[m]:.3f}</b>" for m in names)


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
    return html.escape(baseline_words(variant))


def _percent(value: float) -> str:
    return f"{100 * min(1.0, max(0.0, value)):.1f}%"


def _limits_section(tables: list[Table], counts: Mapping[str, Mapping[str | None, int]]) -> str:
    found = find_limits(tables, counts)
    parts = [f"<p><b>{html.escape(limits_sentence(found))}</b></p>"]
    for limits in found:
        items = [f"{family}: {clause}" for family, clause in limits.weak.items()]
        if limits.unmoved:
            scores = ", ".join(f"{f} {a:.2f} to {b:.2f}" for f, (a, b) in limits.unmoved.items())
            items.append(
                f"zeroing the language model's visual tokens costs less than {UNMOVED:.2f} "
                f"{limits.metric} ({scores}): it passes the words on, and only SAM 2 looks"
            )
        lines = "".join(f"<li>{html.escape(item)}</li>" for item in items)
        parts.append(f"<h4>{html.escape(limits.name)}</h4><ul>{lines}</ul>")
    parts.append(
        "<p>Nor anything outside the drawn world that it was trained on: the scores say nothing "
        "about photographs or films.</p>"
    )
    return f'<div class="card warn">{"".join(parts)}</div>'


def _pictures(results: Results) -> str:
    """Pictures of every benchmark's own records (those of baselines and ablations are left out)."""
    shown = {
        name: rows
        for name, rows in sorted(results.records.items(), key=lambda item: kind_index(item[0]))
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
