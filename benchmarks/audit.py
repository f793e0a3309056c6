"""The size audit against a bare GROUP BY, and against reading the same through Airflow's ORM."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from benchmarks.cleanup import Bench, in_a_process
from benchmarks.table import Shape
from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.size_audit.findings import WINDOW_DAYS
from local_stack.postgres import PostgresServer

PLAIN = "SELECT dag_id, task_id, key, sum(pg_column_size(value)) FROM xcom GROUP BY 1, 2, 3"
#: The two are measured in turn, so that what else the machine does falls on both.
REPEATS = 9
#: Rows that are read through the ORM; the whole table would take more than a minute.
ORM_ROWS = 20_000


def run(server: PostgresServer, shape: Shape, say: Callable[[str], None]) -> dict[str, float]:
    """The figures for ``build/bench.json``."""
    bench = Bench(server, say)
    bench.fill("bench_airflow", shape)
    bench.fill("bench_tenth", Shape(shape.rows // 10, shape.old_share, shape.dags))
    rows, plain, ours = _size_part(server, "bench_airflow")
    say(f"  plain GROUP BY: {statistics.median(plain):.2f} s; ours, the size part: {statistics.median(ours):.2f} s")
    url = server.url("bench_airflow")
    # The quickest of three: a machine that does other things besides must not flatter us.
    orm = min(
        (
            _last(in_a_process("benchmarks.orm", str(ORM_ROWS), AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url))
            for _ in range(3)
        ),
        key=lambda found: found["seconds"],
    )
    orm_seconds = orm["seconds"] / orm["rows"] * rows
    say(f"  Airflow's ORM: {orm_seconds:.1f} s, extrapolated from {orm['rows']:,} rows in {orm['seconds']:.2f} s")
    audits = {
        name: _last(in_a_process("benchmarks.our_audit", server.url(name))) for name in ("bench_tenth", "bench_airflow")
    }
    for found in audits.values():
        say(
            f"  the whole audit of {found['rows']:,} rows: {found['seconds']:.2f} s, {found['peak_rss_mb']:.0f} MB; "
            + ", ".join(f"{name} {seconds:.2f}" for name, seconds in found["phases"].items())
        )
    whole = audits["bench_airflow"]
    return {
        "audit_ratio_vs_plain_group_by": statistics.median(o / p for o, p in zip(ours, plain, strict=True)),
        "audit_speedup_vs_orm": orm_seconds / statistics.median(ours),
        "audit_peak_rss_growth_mb": max(0.0, whole["peak_rss_mb"] - audits["bench_tenth"]["peak_rss_mb"]),
        "audit_total_s_per_million_rows": whole["seconds"] / whole["rows"] * 1e6,
    }


def _size_part(server: PostgresServer, name: str) -> tuple[int, list[float], list[float]]:
    """The rows of the table, and the seconds of the bare statement and of ours, measured in turn."""
    settings = Settings()
    since = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=WINDOW_DAYS)
    plain: list[float] = []
    ours: list[float] = []
    with (
        psycopg.connect(server.url(name), autocommit=True) as connection,
        PostgresMetadataStore(
            lambda: psycopg.connect(server.url(name)),
            setting="metadata_conn_id",
            lock_timeout=settings.lock_timeout_seconds,
            statement_timeout=settings.statement_timeout_seconds,
        ) as store,
    ):

        def bare() -> int:
            return len(connection.execute(PLAIN).fetchall())

        def whole() -> int:
            return len(list(store.sizes(settings.top_entries, since=since)))

        bare(), whole()
        for _ in range(REPEATS):
            for method, seconds in ((bare, plain), (whole, ours)):
                started = time.monotonic()
                method()
                seconds.append(time.monotonic() - started)
        found: Any = connection.execute("SELECT count(*) FROM xcom").fetchone()
    return int(found[0]), plain, ours


def _last(output: str) -> dict[str, Any]:
    return dict(json.loads(output.splitlines()[-1]))
