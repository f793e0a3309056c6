"""The tables about the state of the table, the probe and the scan for secrets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from include.xcom_maintenance.core.growth import day_of
from include.xcom_maintenance.jobs.audit_findings import Findings
from include.xcom_maintenance.reports.report import Table

_UNKNOWN = "unknown"


def health_tables(found: Findings) -> Iterator[Table]:
    """Space and health of the table, and the tables with rows set aside."""
    health = found.health
    yield Table(
        "Space of the table",
        ["part", "bytes"],
        [
            ["heap", health.heap_bytes],
            ["TOAST", health.toast_bytes],
            ["indexes", health.index_bytes],
            ["in all", health.total_bytes],
            ["of that, bloat of the heap (estimate)", _known(health.heap_bloat_bytes)],
            ["of that, bloat of TOAST (estimate, at least)", _known(health.toast_bloat_bytes)],
            ["the whole database", health.database_bytes],
        ],
        "Stored bytes are what the database keeps for the values, after its own compression. Bloat is what heap and "
        "TOAST take beyond what their live rows need by the statistics; VACUUM makes it usable again, VACUUM FULL "
        "gives it back.",
    )
    age, limit = health.transaction_age, health.freeze_max_age
    yield Table(
        "Health of the table",
        ["measure", "value"],
        [
            ["live rows (estimate)", _known(health.live_rows_estimate)],
            ["dead rows (estimate)", _known(health.dead_rows_estimate)],
            ["last vacuum", _moment(health.last_vacuum, is_replica=health.is_replica)],
            ["last analyze", _moment(health.last_analyze, is_replica=health.is_replica)],
            ["transactions since the oldest that is not frozen", _known(age)],
            ["autovacuum freezes after so many", _known(limit)],
            ["pages found in memory", "unknown" if health.cache_hit_share is None else f"{health.cache_hit_share:.1%}"],
            ["share of the database", f"{health.total_bytes / health.database_bytes:.1%}"],
            ["connections to the server", _of(health.connections, health.max_connections)],
        ],
        "This is a replica, which has no statistics of rows and vacuums." if health.is_replica else "",
    )
    yield Table(
        "Tables with XComs set aside",
        ["table", "total bytes", "rows (estimate)"],
        [[table.name, table.total_bytes, _known(table.rows_estimate)] for table in health.archive_tables],
        "`airflow db clean` without --skip-archive and migrations leave these; their rows may refer to blobs.",
    )


def probe_tables(found: Findings, top: int) -> Iterator[Table]:
    """What the probe and the scan for secrets found; nothing if they were not made."""
    if found.probes is not None:
        rows: list[list[Any]] = []
        for p in found.probes:
            reduction = None if p.stored_bytes is None else round(1 - p.stored_bytes / max(1, p.value_bytes), 4)
            state = p.error or ("intact, removed" if p.intact and p.removed else "intact" if p.intact else "NOT INTACT")
            where = "" if p.in_blob is None else "blob" if p.in_blob else "database"
            cells = [p.value_bytes, p.push_seconds, p.pull_seconds, p.stored_bytes, reduction, p.encryption_seconds]
            rows.append([*cells, where, state])
        yield Table(
            "Live probe",
            [
                *("value bytes", "push seconds", "pull seconds", "stored bytes", "share saved"),
                *("encryption seconds", "kept in", "state"),
            ],
            rows,
            "Canary values through the XCom backend that this Airflow uses.",
        )
    if (scan := found.secrets) is not None:
        findings: list[list[Any]] = [
            [f.dag_id, f.task_id, f.key, f.json_path, f.kind, f.values, f.newest.isoformat(timespec="seconds")]
            for f in scan.findings[:top]
        ]
        note = f"{scan.values:,} values were looked at, {scan.skipped:,} left out since they are too large."
        if scan.cut_short:
            note += " A limit ended the scan; the next audit goes on."
        yield Table(
            "What looks like a secret", ["DAG", "task", "key", "path", "kind", "values", "newest"], findings, note
        )


def moment_text(day: int) -> str:
    return day_of(day).isoformat()


def _known(value: int | None) -> int | str:
    return _UNKNOWN if value is None else value


def _of(part: int | None, whole: int | None) -> str:
    return _UNKNOWN if part is None or whole is None else f"{part:,} of {whole:,}"


def _moment(moment: datetime | None, *, is_replica: bool) -> str:
    if moment is None:
        return _UNKNOWN if is_replica else "never"
    return moment.isoformat(timespec="seconds")
