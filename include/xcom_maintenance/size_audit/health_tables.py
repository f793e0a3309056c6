"""The tables about the state of the table, the probe and the scan for secrets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.size_audit.findings import Findings
from include.xcom_maintenance.size_audit.growth import day_of

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
