"""Cleanup against ``airflow db clean`` and one bare DELETE: the same rows, a fresh copy of the table for each."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.table import Shape, fill
from include.xcom_maintenance.jobs import cleanup, deletion, purge
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.metadata.postgres import PostgresMetadataStore
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.settings import Settings
from local_stack.postgres import PostgresServer, migrate
from local_stack.processes import clean_environment

DAYS = 7
#: Tasks that run at a time, as with an executor that has two slots.
WORKERS = 2


@dataclass
class Measured:
    rows: int
    seconds: float
    wal_bytes: int
    #: Growth of the database on disk at its largest, above what it was before.
    extra_disk_bytes: int
    longest_transaction: float = 0.0

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds


def run(server: PostgresServer, shape: Shape, say: Callable[[str], None]) -> dict[str, float]:
    """The figures for ``build/bench.json``."""
    say(f"Filling a table of {shape.rows:,} rows")
    server.create_database("bench_airflow")
    migrate(server.url("bench_airflow"))
    with server.connect("bench_airflow") as connection:
        fill(connection, shape)
        size = _one(connection, "SELECT pg_total_relation_size('xcom')")
    say(f"{size / 1e9:.2f} GB, {int(shape.rows * shape.old_share):,} rows to delete; a fresh copy for each method:")
    methods: dict[str, Callable[[str], float | tuple[float, float]]] = {
        "raw": lambda name: _raw_delete(server, name),
        "ours": lambda name: _ours(server, name),
        "db clean": lambda name: _db_clean(server, name, 0),
        "db clean, batches of 10,000": lambda name: _db_clean(server, name, 10_000),
    }
    found: dict[str, Measured] = {}
    for label, method in methods.items():
        found[label] = _measure(server, method)
        say(f"  {label}: {found[label].rows:,} rows, {found[label].seconds:.2f} s")
    raw, ours = found["raw"], found["ours"]
    assert len({measured.rows for measured in found.values()}) == 1, "the methods did not delete the same rows"
    return {
        "cleanup_rows_per_s": ours.rows_per_second,
        "cleanup_table_gb": size / 1e9,
        "cleanup_speedup_vs_db_clean": ours.rows_per_second / found["db clean"].rows_per_second,
        "cleanup_speedup_vs_db_clean_batched": ours.rows_per_second
        / found["db clean, batches of 10,000"].rows_per_second,
        "cleanup_ratio_vs_raw_delete": ours.rows_per_second / raw.rows_per_second,
        "cleanup_wal_ratio_vs_raw_delete": ours.wal_bytes / raw.wal_bytes,
        "cleanup_longest_transaction_s": ours.longest_transaction,
        "cleanup_extra_disk_mb": ours.extra_disk_bytes / 1e6,
        "db_clean_extra_disk_mb": found["db clean"].extra_disk_bytes / 1e6,
    }


def _measure(server: PostgresServer, method: Callable[[str], float | tuple[float, float]]) -> Measured:
    name = "bench_copy"
    server.create_database(name, template="bench_airflow")
    try:
        with server.connect(name) as connection:
            connection.execute("SELECT count(*), sum(pg_column_size(value)) FROM xcom")  # as warm for each
            connection.execute("CHECKPOINT")
            before, start = (
                _one(connection, "SELECT count(*) FROM xcom"),
                _one(connection, "SELECT pg_current_wal_lsn()"),
            )
            with _disk_watched(server, name) as growth:
                timed = method(name)
            seconds, longest = timed if isinstance(timed, tuple) else (timed, timed)
            wal = _one(connection, f"SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}')")
            rows = before - _one(connection, "SELECT count(*) FROM xcom")
        return Measured(rows, seconds, int(wal), growth[0], longest)
    finally:
        server.drop_database(name)


def _raw_delete(server: PostgresServer, name: str) -> float:
    with server.connect(name) as connection:
        started = time.monotonic()
        connection.execute(f"DELETE FROM xcom WHERE timestamp < now() - interval '{DAYS} days'")
        return time.monotonic() - started


def _ours(server: PostgresServer, name: str) -> tuple[float, float]:
    """The whole job: plan, guard, manifest, deleting in as many tasks as the plan asks for, and the report.

    :returns: seconds and the longest batch.
    """
    from airflow.sdk import ObjectStoragePath

    settings = Settings(mode="enforce", max_age_days=DAYS)
    with tempfile.TemporaryDirectory() as folder:
        report = Report("xcom_cleanup", "benchmark", mode="enforce")
        place = ReportPlace(ObjectStoragePath(f"file://{folder}"), report.dag_id, report.run_id)
        started = time.monotonic()
        with _job(server, name, settings, report, place) as job:
            cleanup.plan(job)
            place.write(report)
            shards = deletion.share_out(job)

        def delete(shard: dict[str, Any]) -> None:
            with _job(server, name, settings, report, place) as job:
                deletion.delete_rows(job, shard)

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(delete, shards))
        with _job(server, name, settings, report, place) as job:
            purge.finish(job, shards)
            place.write(report)
        seconds = time.monotonic() - started
    print("   ", {phase["name"]: phase["seconds"] for phase in report.phases}, len(shards), "shards")
    return seconds, float(report.headline["longest_transaction_seconds"])


@contextmanager
def _job(server: PostgresServer, name: str, settings: Settings, report: Report, place: ReportPlace) -> Iterator[Job]:
    """What a task makes for itself: a connection of its own, checked."""
    with PostgresMetadataStore(
        lambda: psycopg.connect(server.url(name)),
        setting="metadata_conn_id",
        lock_timeout=settings.lock_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
    ) as metadata:
        identity = metadata.check(may_delete=True, reads_references=False)
        yield Job(settings, metadata, identity, None, report, place)


def _db_clean(server: PostgresServer, name: str, batch_size: int) -> float:
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.db_clean", str(DAYS), str(batch_size)],
            env=clean_environment({"AIRFLOW_HOME": home, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": server.url(name)}),
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    [line] = [line for line in done.stdout.splitlines() if line.startswith("seconds=")]
    return float(line.removeprefix("seconds="))


@contextmanager
def _disk_watched(server: PostgresServer, name: str) -> Iterator[list[int]]:
    """The largest growth of the database while the block runs, looked at ten times a second."""
    growth = [0]
    done = threading.Event()
    with server.connect("postgres") as connection:
        query = f"SELECT pg_database_size('{name}')"
        start = _one(connection, query)

        def watch() -> None:
            while not done.wait(0.1):
                growth[0] = max(growth[0], _one(connection, query) - start)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield growth
        finally:
            done.set()
            thread.join()


def _one(connection: psycopg.Connection[Any], query: str) -> Any:
    found = connection.execute(query).fetchone()  # type: ignore[call-overload]
    assert found is not None
    return found[0]
