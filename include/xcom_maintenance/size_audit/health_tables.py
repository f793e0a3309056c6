"""The report's tables about the health of the ``xcom`` table."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.size_audit.findings import Findings
from include.xcom_maintenance.size_audit.growth import day_of

_UNKNOWN = "unknown"


def health_tables(found: Findings) -> Iterator[Table]:
    """Size and health of the table, and the archive tables beside it."""
    health = found.health
    yield Table(
        "Table size",
        ["part", "bytes"],
        [
            ["heap", health.heap_bytes],
            ["TOAST", health.toast_bytes],
            ["indexes", health.index_bytes],
            ["total", health.total_bytes],
            ["of which heap bloat (estimate)", _known(health.heap_bloat_bytes)],
            ["of which TOAST bloat (estimate, lower bound)", _known(health.toast_bloat_bytes)],
            ["entire database", health.database_bytes],
        ],
        "Stored bytes are what the values occupy after the database's own compression. Bloat is the space that heap "
        "and TOAST take beyond what their live rows need, going by the statistics: VACUUM makes it reusable, VACUUM "
        "FULL returns it to the operating system.",
    )
    age, limit = health.transaction_age, health.freeze_max_age
    yield Table(
        "Table health",
        ["measure", "value"],
        [
            ["live rows (estimate)", _known(health.live_rows_estimate)],
            ["dead rows (estimate)", _known(health.dead_rows_estimate)],
            ["last vacuum", _moment(health.last_vacuum, is_replica=health.is_replica)],
            ["last analyze", _moment(health.last_analyze, is_replica=health.is_replica)],
            ["age of the oldest unfrozen transaction ID", _known(age)],
            ["autovacuum_freeze_max_age", _known(limit)],
            [
                "buffer cache hit ratio",
                "unknown" if health.cache_hit_share is None else f"{health.cache_hit_share:.1%}",
            ],
            ["share of the database", f"{health.total_bytes / health.database_bytes:.1%}"],
            ["connections in use", _of(health.connections, health.max_connections)],
        ],
        "This is a read replica, which has no row or vacuum statistics." if health.is_replica else "",
    )
    yield Table(
        "Archive tables",
        ["table", "total bytes", "rows (estimate)"],
        [[table.name, table.total_bytes, _known(table.rows_estimate)] for table in health.archive_tables],
        "Left behind by migrations and by `airflow db clean` without --skip-archive. Their rows may refer to blobs.",
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
