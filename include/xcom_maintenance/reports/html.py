"""A report as one HTML file that needs nothing else: no script, no request, readable on a phone and in the dark.

What the Markdown says, in its order, and the charts. All goes through jinja2's escaping, and the page's own policy
(Content-Security-Policy) lets a browser do nothing but apply its one stylesheet.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

from include.xcom_maintenance.reports import charts
from include.xcom_maintenance.reports.markdown import STATUS_WORDS, figure, label
from include.xcom_maintenance.reports.report import Chart, Report, Table

log = logging.getLogger("xcom_maintenance")

_HERE = Path(__file__).parent
_TONES = {
    **dict.fromkeys(("reported", "enforced", "audited"), "good"),
    **dict.fromkeys(("refused", "rejected", "failed"), "bad"),
}
#: What a verdict in a cell looks like.
_BADGES = {
    "pass": "good",
    "ok": "good",
    "yes": "",
    "WARN": "warn",
    "warn": "warn",
    "warning": "warn",
    "fail": "bad",
    "failed": "bad",
}
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([T ][\d:.+Z]*)?")
#: Characters: of a headline that needs smaller letters, and of a cell that may be broken into lines.
_LONG, _LONG_CELL = 14, 24
#: The widest chart that is a table too; beyond that the figures are in the JSON.
_ROWS_OF_A_CHART = 400


def render(report: Report) -> str:
    """The report, most important first."""
    template, style = _template()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    text: str = template.render(
        report=report,
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        status=STATUS_WORDS.get(report.status, report.status),
        tone=_TONES.get(report.status, "warn"),
        headline=[(label(name), _moment(figure(name, value))) for name, value in report.headline.items()],
        moment=_moment,
        prose=_prose,
        charts=[_chart(number, chart) for number, chart in enumerate(report.charts)],
        has_library=not report.charts or charts.installed(),
        tables=[_table(f"table-{number}", table) for number, table in enumerate(report.tables)],
        phases=_table(
            "phases", Table("Phases", ["phase", "seconds"], [[p["name"], p["seconds"]] for p in report.phases])
        ),
        settings=_table(
            "settings",
            Table(
                "Settings",
                ["setting", "value", "from"],
                [[name, s["value"], s["source"]] for name, s in report.settings.items()],
            ),
        ),
        long=_LONG,
    )
    return text


@cache
def _template() -> tuple[Any, str]:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    source = (_HERE / "report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source), (_HERE / "report.css").read_text(encoding="utf-8")


def _chart(number: int, chart: Chart) -> dict[str, Any]:
    from markupsafe import Markup

    drawings: list[str] = []
    try:
        drawings = charts.draw(chart) if charts.installed() else []
    except Exception as error:  # noqa: BLE001 - a picture is not worth a report; its figures are in the table
        log.warning("The chart %r could not be drawn: %s", chart.title, type(error).__name__)
    series = charts.columns(chart)
    names = list(series)
    rows = [
        [name, *(charts.written(chart, values[i]) for values in series.values())]
        for i, name in enumerate(chart.labels[:_ROWS_OF_A_CHART])
    ]
    figures = _table(f"chart-{number}-figures", Table(chart.title, ["", *names], rows))
    for column in figures["columns"][1:]:
        column["number"] = True
    drawn = [Markup(svg) for svg in drawings]  # noqa: S704 - the library has escaped what is in its drawings
    legend = names[: charts.MAX_SERIES] if len(names) > 1 else []
    return {"chart": chart, "drawings": drawn, "legend": legend, "figures": figures}


def _table(anchor: str, table: Table) -> dict[str, Any]:
    numbers = [all(isinstance(row[i], int | float | None) for row in table.rows) for i in range(len(table.columns))]
    return {
        "anchor": anchor,
        "title": table.title,
        "note": table.note,
        "columns": [{"name": name, "number": number} for name, number in zip(table.columns, numbers, strict=True)],
        "rows": [
            [_cell(column, value) for column, value in zip(table.columns, row, strict=True)] for row in table.rows
        ],
    }


def _cell(column: str, value: Any) -> dict[str, Any]:
    text = figure(column, value)
    share = value if "share" in column.split() and isinstance(value, int | float) and 0 <= value <= 1 else None
    return {
        "text": _moment(text),
        "badge": _BADGES.get(text, "") if isinstance(value, str) else "",
        "share": None if share is None else round(100 * share, 1),
        "short": len(text) <= _LONG_CELL,
    }


def _prose(text: str) -> Any:
    """A sentence of ours, with `names` set apart as in the Markdown; whatever else is in it stays text."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _moment(text: str) -> str:
    """A moment with a space where a line can end; anything else as it is."""
    return text.replace("T", " ") if _MOMENT.fullmatch(text) else text
