"""The scores on the page: tiles, tables beside baselines, and what the model cannot do."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from projects.common.report.scores import (
    MODEL,
    NO_VISUAL,
    PREFERENCE,
    UNMOVED,
    Table,
    baseline_words,
    family_words,
    find_limits,
    kind_of,
    limits_sentence,
    use_of,
)

Counts = Mapping[str, Mapping[str | None, int]]


def score_tiles(tables: Sequence[Table]) -> str:
    """A big number a benchmark, with its strongest trivial answer as a mark on the bar."""
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
            mark = f'<u style="left:{percent(baseline[1])}"></u>'
            said = f"<small>trivial answer: {_variant_words(baseline[0])} {baseline[1]:.3f}</small>"
        tiles.append(
            f'<div class="tile"><small>{html.escape(kind_of(table.benchmark))}</small>'
            f"<b>{value:.3f}</b>"
            f'<div class="meter"><i style="width:{percent(value)}"></i>{mark}</div>'
            f"<small><code>{html.escape(table.benchmark)}/{html.escape(metric)}</code></small>"
            f"<small>{' · '.join(others[:3])}</small>{said}</div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def scores_section(tables: list[Table], counts: Counts) -> str:
    """Tables of benchmarks that have something to compare with, then lines of the others."""
    compared = [table for table in tables if len(table.cells) > 1]
    single = [table for table in tables if len(table.cells) <= 1]
    parts = [_score_table(table, counts.get(table.benchmark, {})) for table in compared]
    if single:
        parts.append(_single_scores(single))
    return "".join(parts)


def is_toy(tables: Sequence[Table]) -> bool:
    """Whether this is the toy world: only there it is known what expressions use."""
    return any(table.families for table in tables)


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
        f'{title}<p class="soft">By what an expression uses: '
        "among other things; where it decides, that is, where the expression would be ambiguous "
        f"without it; and alone.</p>"
        f'<div class="card">{rows}<details><summary>By exact combination</summary>{combined}'
        f"</details></div>"
    )


def _table_rows(
    table: Table, families: Sequence[str | None], counts: Mapping[str | None, int]
) -> str:
    heads = "".join(f"<th>{_variant_words(variant)}</th>" for variant in table.variants)
    rows = []
    for family in families:
        kind = "all" if family is None else "family" if family == use_of(family) else "part"
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
        f'<div class="meter"><i style="width:{percent(value)}"></i></div></td>'
    )


def _variant_words(variant: str) -> str:
    if variant == MODEL:
        return "this model"
    if variant == NO_VISUAL:
        return "visual tokens zeroed"
    return html.escape(baseline_words(variant))


def percent(value: float) -> str:
    """A fraction as a CSS width."""
    return f"{100 * min(1.0, max(0.0, value)):.1f}%"


def limits_section(tables: list[Table], counts: Counts) -> str:
    """What the scores say that the model cannot do."""
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
    if is_toy(tables):
        parts.append(
            "<p>Nor anything outside the drawn world that it was trained on: the scores say "
            "nothing about photographs or films.</p>"
        )
    return f'<div class="card warn">{"".join(parts)}</div>'
