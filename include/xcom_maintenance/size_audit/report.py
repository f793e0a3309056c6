"""The report of an audit: the scorecard first, then what to do, then the rest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from heapq import nlargest
from typing import Any

from include.xcom_maintenance.core.sizes import JSONB_STRING_LIMIT, KB, human_bytes
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.metadata.ports.size_audit import LongRun
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.size_audit.actions import place, to_do
from include.xcom_maintenance.size_audit.findings import Findings
from include.xcom_maintenance.size_audit.health_tables import health_tables, moment_text
from include.xcom_maintenance.size_audit.job import AuditJob
from include.xcom_maintenance.size_audit.probe import describe_probe, rounded
from include.xcom_maintenance.size_audit.scorecard import Line, Verdict
from include.xcom_maintenance.size_audit.secrets import describe_secrets
from include.xcom_maintenance.size_audit.size_tables import pushes_table, size_charts, size_tables

#: How many DAGs (the largest) keep their figures for the next audit to compare with.
_REMEMBERED_DAGS = 5_000


def describe(job: AuditJob, found: Findings) -> None:
    """Put the findings into the report, the log and the list of breaches."""
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
        f"{line.title}: {written(line, line.value)} (threshold: {written(line, line.threshold)})"
        for line in found.scorecard
        if line.verdict is Verdict.WARN
    )
    headline = report.headline
    job.log.info(
        "Rows: %s, stored bytes: %s, DAGs: %s, rows above 48 KB: %s, total bytes of the table: %s",
        *(f"{headline[name]:,}" for name in ("rows", "bytes", "dags", "rows_above_48_kb", "table_total_bytes")),
    )
    for breach in job.breaches:
        job.log.warning("Threshold crossed: %s", breach)


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
        "runs_that_do_not_end": None if found.long_runs is None else len(found.long_runs),
        "rows_of_runs_that_do_not_end": None if found.long_runs is None else sum(run.rows for run in found.long_runs),
        "pushes_of_busiest_task": values.get("pushes_a_day"),
        "push_seconds": rounded(values.get("push_latency")),
        "pull_seconds": rounded(values.get("pull_latency")),
        "breaches": sum(line.verdict is Verdict.WARN for line in found.scorecard),
    }


def _remembered(job: AuditJob, found: Findings) -> dict[str, Any]:
    """What the next audit will compare with."""
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
        yield "No blob store was read, so the sizes cover only what is in the database."
    if blobs is not None and blobs.estimated:
        yield (
            f"Blob sizes for {blobs.estimated:,} of {counted(blobs.total.references, 'reference')} are estimated from "
            "a sample, because audit_budget_blobs or audit_budget_seconds was used up."
        )
    if blobs is not None and blobs.missing:
        yield (
            f"No blob was listed for {counted(blobs.missing, 'reference')}. Run xcom_orphan_reconciliation to see "
            "which are dangling."
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
        "The thresholds come from the warn_* settings.",
    )


def written(line: Line, value: float | None) -> str:
    """The value or the threshold of a metric, formatted for people."""
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


def _long_runs(found: Findings, runs: list[LongRun], top: int) -> Table:
    rows, size = sum(run.rows for run in runs), sum(run.stored_bytes for run in runs)
    return Table(
        "Runs that do not end",
        ["DAG", "run", "state", "days", "rows", "stored bytes"],
        [
            [
                *(run.dag_id, run.run_id, run.state, round((found.moment - run.since) / timedelta(days=1), 1)),
                *(run.rows, run.stored_bytes),
            ]
            for run in runs[:top]
        ],
        (f"The first {top} of {len(runs):,}. " if len(runs) > top else "")
        + f"In no final state for longer than stuck_after_days. A cleanup never takes their rows: "
        f"{counted(rows, 'row')} with {human_bytes(size)}. Mark a run as failed if nothing of it works any more.",
    )


# -- growth and hazards --------------------------------------------------------------------------------------------


def _forecasts(found: Findings) -> Table:
    if found.bytes_a_day is None:
        note = "There is no trend yet: it needs two audits at least an hour apart."
    else:
        note = (
            f"The table {'grows' if found.bytes_a_day > 0 else 'shrinks'} by {human_bytes(abs(found.bytes_a_day))} "
            f"per day, going by the last {len(found.past) + 1} audits."
        )
    rows: list[list[Any]] = []
    for forecast in found.forecasts:
        when = "already" if forecast.reached else forecast.day.isoformat() if forecast.day else "not within ten years"
        rows.append([forecast.limit_bytes, when])
    return Table("Growth forecast", ["table bytes", "reached on"], rows, note)


def _changes(found: Findings, top: int) -> Table:
    return Table(
        "Largest changes in growth by DAG",
        ["DAG", "bytes per day", "previous bytes per day", "pushes per day", "previous pushes per day", "anomaly"],
        [
            [
                *(c.dag_id, c.bytes_a_day, c.bytes_a_day_before, c.pushes_a_day, c.pushes_a_day_before),
                "yes" if c.is_anomaly else "",
            ]
            for c in found.changes[:top]
        ],
        f"Pushes on {found.last_day} compared with the last complete day before an earlier audit. A change is an "
        "anomaly if the bytes at least doubled or halved and differ by at least anomaly_bytes.",
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
        "Large values and their limits",
        ["DAG / task / key", "logical bytes", "share of the JSONB limit", "seconds to push"],
        rows,
        f"A JSONB string can hold at most 268,435,455 bytes. Push times are based on {human_bytes(speed)} per second "
        f"({how}). Airflow fails a task that sends no heartbeat for heartbeat_timeout_seconds.",
    )
    rows = [["rows with a NULL value", dag_id, count] for dag_id, count in sizes.nulls.most_common(top) if count]
    missing = list(found.missing_dags.items())[:top]
    rows += [[f"rows left behind: {why}", dag_id, sizes.dags[dag_id].rows] for dag_id, why in missing]
    if found.overdue:
        rows += [["rows a cleanup should have deleted", *item] for item in found.overdue.dags.most_common(top)]
    yield Table("Rows that should not be there", ["what", "DAG", "rows"], rows)
    if found.long_runs:
        yield _long_runs(found, found.long_runs, top)
    yield Table(
        "Mapped tasks with the largest fan-out",
        ["DAG", "task", "fan-out", "rows", "stored bytes"],
        [list(found_) for found_ in sizes.mapped],
        "The fan-out is the highest map index plus one. Every mapped task instance pushes its own rows.",
    )
    yield Table(
        "Tasks with the most pushes in one day",
        ["DAG", "task", "day", "pushes"],
        [[dag_id, task_id, moment_text(day), rows_] for dag_id, task_id, day, rows_ in sizes.busy_days],
    )
