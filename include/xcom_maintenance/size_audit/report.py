"""What an audit says: the scorecard first, then what to do, then the rest."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest
from typing import Any

from include.xcom_maintenance.core.sizes import JSONB_STRING_LIMIT, KB, human_bytes
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.size_audit.actions import place, to_do
from include.xcom_maintenance.size_audit.findings import Findings
from include.xcom_maintenance.size_audit.health_tables import health_tables, moment_text
from include.xcom_maintenance.size_audit.job import AuditJob
from include.xcom_maintenance.size_audit.probe import describe_probe, rounded
from include.xcom_maintenance.size_audit.scorecard import Line, Verdict
from include.xcom_maintenance.size_audit.secrets import describe_secrets
from include.xcom_maintenance.size_audit.size_tables import pushes_table, size_charts, size_tables

#: DAGs whose figures the next audit can compare with; the largest.
_REMEMBERED_DAGS = 5_000


def describe(job: AuditJob, found: Findings) -> None:
    """Put the findings into the report, the log, and the list of what people are told."""
    report, top = job.report, job.settings.top_entries
    report.headline = _headline(found)
    report.tables = [
        _scorecard(found.scorecard),
        to_do(found),
        *size_tables(found, top),
        _forecasts(found),
        pushes_table(found, top),
        _changes(found, top),
        *_hazards(found, top),
        *health_tables(found),
    ]
    if found.probes is not None:
        describe_probe(report, found.probes)
    if found.secrets is not None:
        describe_secrets(report, found.secrets, top=top)
    report.charts = list(size_charts(found, top))
    report.charts_after = 2  # the scorecard, and what to do
    report.details = {"scorecard": [_as_json(line) for line in found.scorecard], "growth": _remembered(job, found)}
    report.warnings += _warnings(job, found)
    job.breaches.extend(
        f"{line.title}: {written(line, line.value)} ({written(line, line.threshold)} allowed)"
        for line in found.scorecard
        if line.verdict is Verdict.WARN
    )
    headline = report.headline
    job.log.info(
        "%s rows with %s bytes of %s DAGs; %s rows are above 48 KB; the table takes %s bytes in all",
        *(f"{headline[name]:,}" for name in ("rows", "bytes", "dags", "rows_above_48_kb", "table_total_bytes")),
    )
    for breach in job.breaches:
        job.log.warning("Scorecard: %s", breach)


def _headline(found: Findings) -> dict[str, Any]:
    sizes, health, blobs = found.sizes, found.health, found.blobs
    values = {line.name: line.value for line in found.scorecard}
    bloat = [part for part in (health.heap_bloat_bytes, health.toast_bloat_bytes) if part is not None]
    return {
        "rows": sizes.all.rows,
        "bytes": sizes.all.stored,
        "logical_bytes": None if sizes.all.logical is None else round(sizes.all.logical),
        "blob_bytes": round(blobs.total.bytes) if blobs else None,
        "dags": len(sizes.dags),
        "rows_above_48_kb": sizes.band(48 * KB, None)[0],
        "largest_bytes": found.largest_bytes,
        "oldest_row": sizes.oldest.isoformat(timespec="seconds") if sizes.oldest else None,
        "table_total_bytes": health.total_bytes,
        "bytes_per_day": None if found.bytes_a_day is None else round(found.bytes_a_day),
        "days_to_limit": values.get("forecast"),
        "dead_rows": health.dead_rows_estimate,
        "bloat_bytes": sum(bloat) if bloat else None,
        "share_of_database": values.get("database_share") or 0.0,
        "overdue_rows": values.get("overdue_rows"),
        "pushes_of_busiest_task": values.get("pushes_a_day"),
        "push_seconds": rounded(values.get("push_latency")),
        "pull_seconds": rounded(values.get("pull_latency")),
        "breaches": sum(line.verdict is Verdict.WARN for line in found.scorecard),
    }


def _remembered(job: AuditJob, found: Findings) -> dict[str, Any]:
    """What the next audit compares with."""
    now = found.now
    largest = nlargest(_REMEMBERED_DAGS, now.dags.items(), key=lambda item: (item[1].bytes, item[1].bytes_a_day))
    return {
        "database": job.identity.owner,
        "day": now.day.isoformat() if now.day else None,
        "bytes_per_day": found.bytes_a_day,
        "dags": {dag_id: [dag.bytes, dag.pushes_a_day, dag.bytes_a_day] for dag_id, dag in largest},
    }


def _warnings(job: AuditJob, found: Findings) -> Iterator[str]:
    blobs = found.blobs
    if job.blobs is None:
        yield "No blob store is looked at, so the sizes are those of the rows only."
    if blobs is not None and blobs.estimated:
        yield (
            f"The blobs of {blobs.estimated:,} of {blobs.total.references:,} references are estimated from a sample, "
            "since audit_budget_blobs or audit_budget_seconds was used up."
        )
    if blobs is not None and blobs.missing:
        yield (
            f"{blobs.missing:,} references have no blob in the listing. xcom_orphan_reconciliation says which are "
            "dangling."
        )


# -- the scorecard, and what follows from it -----------------------------------------------------------------------


def _scorecard(lines: list[Line]) -> Table:
    return Table(
        "Scorecard",
        ["verdict", "metric", "found", "threshold", "what to do"],
        [
            [str(line.verdict), line.title, written(line, line.value), written(line, line.threshold), line.advice]
            for line in lines
        ],
        "The thresholds are the settings warn_*.",
    )


def written(line: Line, value: float | None) -> str:
    """A value of a metric, or its threshold, for people."""
    if value is None:
        return "-"
    if line.unit == "bytes":
        return human_bytes(value)
    if line.unit == "share":
        return f"{value:.1%}"
    number = f"{int(value):,}" if value == int(value) else f"{value:,.3g}"
    return f"{number} {line.unit}".rstrip()


def _as_json(line: Line) -> dict[str, Any]:
    return {
        "metric": line.name,
        "value": line.value,
        "threshold": line.threshold,
        "unit": line.unit,
        "verdict": str(line.verdict),
        "advice": line.advice,
    }


# -- growth and hazards --------------------------------------------------------------------------------------------


def _forecasts(found: Findings) -> Table:
    if found.bytes_a_day is None:
        note = "There is no trend yet: it takes two audits at least an hour apart."
    else:
        note = (
            f"The table {'grows' if found.bytes_a_day > 0 else 'shrinks'} by {human_bytes(abs(found.bytes_a_day))} "
            f"a day, by {len(found.past) + 1} audits."
        )
    rows: list[list[Any]] = []
    for forecast in found.forecasts:
        when = "reached" if forecast.reached else forecast.day.isoformat() if forecast.day else "not in sight"
        rows.append([forecast.limit_bytes, when])
    return Table("When the table reaches a size", ["table bytes", "day"], rows, note)


def _changes(found: Findings, top: int) -> Table:
    return Table(
        "DAGs whose growth changed most",
        ["DAG", "bytes a day", "bytes a day before", "pushes a day", "pushes a day before", "anomaly"],
        [
            [
                *(c.dag_id, c.bytes_a_day, c.bytes_a_day_before, c.pushes_a_day, c.pushes_a_day_before),
                "yes" if c.is_anomaly else "",
            ]
            for c in found.changes[:top]
        ],
        f"What was pushed on {found.last_day} against the last complete day before an earlier audit. An anomaly at "
        "least doubled or halved, and changed by at least anomaly_bytes.",
    )


def _hazards(found: Findings, top: int) -> Iterator[Table]:
    sizes = found.sizes
    speed, how = found.bytes_per_second
    rows: list[list[Any]] = []
    for entry, logical in found.entries[:top]:
        size = entry.stored_bytes if logical is None else logical
        if size > 48 * KB:
            where = place(entry.dag_id, entry.task_id, entry.key)
            rows.append([where, size, round(size / JSONB_STRING_LIMIT, 4), round(size / speed, 2)])
    yield Table(
        "Large values: how near to what breaks",
        ["DAG / task / key", "logical bytes", "share of the JSONB limit", "seconds to push"],
        rows,
        f"A string in JSONB has at most 268,435,455 bytes. The time goes by {human_bytes(speed)} a second, {how}; a "
        "task that does not send a heartbeat for heartbeat_timeout_seconds is failed.",
    )
    rows = [["rows whose value is NULL", dag_id, count] for dag_id, count in sizes.nulls.most_common(top) if count]
    missing = list(found.missing_dags.items())[:top]
    rows += [[f"rows of a DAG, but {why}", dag_id, sizes.dags[dag_id].rows] for dag_id, why in missing]
    if found.overdue:
        rows += [["rows that a cleanup should have deleted", *item] for item in found.overdue.dags.most_common(top)]
    yield Table("Rows that should not be there", ["what", "DAG", "rows"], rows)
    yield Table(
        "Mapped tasks with the largest fan-out",
        ["DAG", "task", "fan-out", "rows", "stored bytes"],
        [list(found_) for found_ in sizes.mapped],
        "Fan-out: the largest map index and one. Every mapped task instance pushes rows of its own.",
    )
    yield Table(
        "Tasks with the most pushes in a day",
        ["DAG", "task", "day", "pushes"],
        [[dag_id, task_id, moment_text(day), rows_] for dag_id, task_id, day, rows_ in sizes.busy_days],
    )
