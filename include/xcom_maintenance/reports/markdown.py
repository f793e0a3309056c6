"""A report as Markdown, for reading in a bucket, a log or a chat."""

from __future__ import annotations

import json
from typing import Any

from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.reports.report import Report, Table

#: What each status means, for people.
STATUS_WORDS = {
    "running": "running, or killed while running",
    "reported": "report only: nothing was changed",
    "planned": "planned; the plan has not been carried out yet, or the run was killed on the way",
    "waiting": "waiting for approval; nothing has been changed yet",
    "rejected": "REJECTED: nothing was changed",
    "enforced": "enforced",
    "audited": "audited; nothing was changed",
    "refused": "REFUSED: nothing was changed",
    "failed": "FAILED",
}


def render(report: Report, *, short: bool = False) -> str:
    """The report, most important first.

    :param short: leave out what does not help to decide on the plan.
    """
    parts = [f"# {report.dag_id}: {STATUS_WORDS.get(report.status, report.status)}"]
    span = f"Run `{report.run_id}`, started {report.started_at}"
    parts.append(span + (f", finished {report.finished_at}." if report.finished_at else "."))
    if report.error:
        parts.append(f"**Error.** {escape(report.error['message'])}")
    for objection in report.objections:
        # Whoever is asked whether to carry the plan out need not raise its limit.
        remedy = "" if short else f" {escape(objection['remedy'])}."
        parts.append(f"**Guard.** {escape(objection['problem'])} (setting: `{objection['setting']}`).{remedy}")
    if report.approval:
        parts.append(f"**Approval.** {escape(report.approval)}.")
    parts += [f"**Warning.** {escape(warning)}" for warning in report.warnings]
    if report.headline:
        rows = [[label(name), figure(name, value)] for name, value in report.headline.items()]
        parts.append(_table(Table("", ["figure", "value"], rows)))
    parts += [_table(table) for table in report.tables]
    if report.manifest:
        parts.append(f"Manifest: `{report.manifest}`")
    if report.phases and not short:
        parts.append(_table(Table("Phases", ["phase", "seconds"], [[p["name"], p["seconds"]] for p in report.phases])))
    if report.settings and not short:
        rows = [[f"`{name}`", s["value"], s["source"]] for name, s in report.settings.items()]
        parts.append(_table(Table("Settings", ["setting", "value", "from"], rows)))
    return "\n\n".join(parts) + "\n"


def label(name: str) -> str:
    """The name of a figure, formatted for people."""
    return name.replace("_", " ").replace(" kb", " KB")


def figure(name: str, value: Any) -> str:
    """A figure, formatted for people: byte counts with a unit, numbers with thousands separators."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    words = name.replace("_", " ").split()
    if "share" in words:
        return f"{value:.1%}"
    if "bytes" in words:
        return human_bytes(value)
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def _table(table: Table) -> str:
    lines = [f"## {table.title}", ""] if table.title else []
    if table.note:
        lines += [table.note, ""]
    if not table.rows:
        return "\n".join([*lines, "None."])
    lines.append("| " + " | ".join(table.columns) + " |")
    # Right-align columns that hold only numbers.
    lines.append(
        "|"
        + "|".join(
            "---:" if all(isinstance(row[i], int | float | None) for row in table.rows) else "---"
            for i in range(len(table.columns))
        )
        + "|"
    )
    for row in table.rows:
        cells = [escape(figure(column, cell)) for column, cell in zip(table.columns, row, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def escape(text: str) -> str:
    """Keep user-chosen names from breaking a table or being read as markup."""
    for character in "\\|<>*[":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ").replace("\r", " ")
