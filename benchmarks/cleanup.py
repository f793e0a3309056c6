"""Cleanup against ``airflow db clean`` and one bare DELETE: the same rows, a fresh copy of the table for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.table import ROWS_PER_RUN, Shape, fill
from local_stack.postgres import PostgresServer, migrate
from local_stack.processes import clean_environment

REPOSITORY = Path(__file__).parent.parent
DAYS = 7.0
#: How often things are measured, by turns: the machine, and its disk, are quicker at one time than at another.
REPEATS = 3
#: What takes no more seconds than this is measured so often a turn, for what disturbs it counts for more.
QUICK, QUICK_REPEATS = 5.0, 3
#: The table that it is given a copy of, and what does the work there, by the name of the copy.
Method = tuple[str, Callable[[str], dict[str, Any]]]


@dataclass
class Measured:
    rows: int
    seconds: float
    wal_bytes: int
    #: Growth of the database on disk at its largest, above what it was before.
    extra_disk_bytes: int
    #: What ``benchmarks.ours`` prints.
    details: dict[str, Any]

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds


def run(server: PostgresServer, shape: Shape, say: Callable[[str], None]) -> dict[str, float]:
    """The figures for ``build/bench.json``."""
    bench = Bench(server, say)
    size = bench.fill("bench_airflow", shape)
    say(f"{size / 1e9:.2f} GB, {int(shape.rows * shape.old_share):,} rows to delete; a fresh copy for each method:")

    def ours_of(days: float, *options: str) -> Method:
        return "bench_airflow", partial(_ours, server, days, options)

    def db_clean_by(*arguments: str) -> Method:
        return "bench_airflow", partial(_db_clean, server, arguments)

    raw, ours, archived, as_json, db_clean, batched, db_clean_archived = bench.by_turns(
        REPEATS,
        {
            "raw DELETE": ("bench_airflow", partial(_raw_delete, server)),
            "ours": ours_of(DAYS),
            "ours, with an archive": ours_of(DAYS, "--archive"),
            "values as JSON, and nothing else": ("bench_airflow", partial(_values_as_json, server)),
            "db clean": db_clean_by("0"),
            "db clean, batches of 10,000": db_clean_by("10000"),
            "db clean, with its archive": db_clean_by("0", "archive"),
        },
    )
    [alone] = bench.by_turns(1, {"ours, one task at a time": ours_of(DAYS, "--workers", "1")})
    everything = (raw, ours, alone, db_clean, batched, archived, db_clean_archived)
    assert len({measured.rows for measured in everything}) == 1, "the methods did not delete the same rows"
    [few] = bench.by_turns(1, {"ours, 100,000 rows": ours_of(oldest(shape, 100_000))})
    small = Shape(shape.rows // 5, shape.old_share, shape.dags)
    bench.fill("bench_small", small)
    of_small, of_large = bench.by_turns(
        REPEATS,
        {
            f"ours, 50,000 of {table.rows:,} rows": (name, partial(_ours, server, oldest(table, 50_000), ()))
            for name, table in (("bench_small", small), ("bench_airflow", shape))
        },
    )
    return {
        "cleanup_rows_per_s": ours.rows_per_second,
        "cleanup_table_gb": size / 1e9,
        "cleanup_speedup_vs_db_clean": ours.rows_per_second / db_clean.rows_per_second,
        "cleanup_speedup_vs_db_clean_batched": ours.rows_per_second / batched.rows_per_second,
        "cleanup_ratio_vs_raw_delete": ours.rows_per_second / raw.rows_per_second,
        "cleanup_one_task_ratio_vs_raw_delete": alone.rows_per_second / raw.rows_per_second,
        "cleanup_wal_ratio_vs_raw_delete": ours.wal_bytes / raw.wal_bytes,
        "cleanup_longest_transaction_s": ours.details["longest_transaction"],
        "cleanup_extra_disk_mb": ours.extra_disk_bytes / 1e6,
        "cleanup_client_rss_growth_mb": max(0.0, ours.details["peak_rss_mb"] - few.details["peak_rss_mb"]),
        "cleanup_same_delete_5x_table": of_large.seconds / of_small.seconds,
        "cleanup_archive_speedup_vs_db_clean_archive": archived.rows_per_second / db_clean_archived.rows_per_second,
        # No archive of JSON can be above it on this machine.
        "cleanup_archive_ceiling_vs_db_clean_archive": db_clean_archived.seconds / as_json.seconds,
        "db_clean_extra_disk_mb": db_clean.extra_disk_bytes / 1e6,
    }


def oldest(shape: Shape, rows: int) -> float:
    """The age in days above which just so many rows of a table are: its old runs are a minute apart."""
    old_runs = int(shape.rows // ROWS_PER_RUN * shape.old_share)
    return 30 + (old_runs - rows // ROWS_PER_RUN) / 1440


class Bench:
    """Copies of tables, and what methods do to them."""

    def __init__(self, server: PostgresServer, say: Callable[[str], None]) -> None:
        self._server, self._say = server, say

    def fill(self, name: str, shape: Shape) -> int:
        """Make a table, unless another part of the benchmark has; returns its size in bytes."""
        with self._server.connect("postgres") as connection:
            is_new = not _one(connection, f"SELECT count(*) FROM pg_database WHERE datname = '{name}'")
        if is_new:
            self._say(f"Filling a table of {shape.rows:,} rows")
            self._server.create_database(name)
            migrate(self._server.url(name))
        with self._server.connect(name) as connection:
            if is_new:
                fill(connection, shape)
            return int(_one(connection, "SELECT pg_total_relation_size('xcom')"))

    def by_turns(self, repeats: int, methods: dict[str, Method]) -> list[Measured]:
        """Measure each as often as the others, an odd number of times, and return the median of each by its seconds."""
        found: dict[str, list[Measured]] = {label: [] for label in methods}
        for turn in range(repeats):
            for label, (template, method) in methods.items():
                so_far = found[label]
                while len(so_far) <= turn or (
                    len(so_far) < (turn + 1) * QUICK_REPEATS and min(one.seconds for one in so_far) <= QUICK
                ):
                    so_far.append(self._measure(template, method))
                    self._say(f"    {label}: {so_far[-1].seconds:.2f} s")
        return [self._median(label, measured) for label, measured in found.items()]

    def _median(self, label: str, measured: list[Measured]) -> Measured:
        measured = sorted(measured, key=lambda one: one.seconds)
        found = measured[len(measured) // 2]
        plan = f", {found.details['plan_seconds']:.2f} s of it the plan" if "plan_seconds" in found.details else ""
        of = f" (median of {', '.join(f'{one.seconds:.2f}' for one in measured)})" if len(measured) > 1 else ""
        self._say(f"  {label}: {found.rows:,} rows, {found.seconds:.2f} s{plan}{of}")
        return found

    def _measure(self, template: str, method: Callable[[str], dict[str, Any]]) -> Measured:
        name, server = "bench_copy", self._server
        server.create_database(name, template=template)
        try:
            with server.connect(name) as connection:
                connection.execute("SELECT count(*), sum(pg_column_size(value)) FROM xcom")  # as warm for each
                connection.execute("CHECKPOINT")
                os.sync()  # what copying has left for the disk to do is no part of it
                before, start = (
                    _one(connection, "SELECT count(*) FROM xcom"),
                    _one(connection, "SELECT pg_current_wal_lsn()"),
                )
                with _disk_watched(server, name) as growth:
                    details = method(name)
                wal = _one(connection, f"SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}')")
                rows = before - _one(connection, "SELECT count(*) FROM xcom")
            return Measured(rows, details["seconds"], int(wal), growth[0], details)
        finally:
            server.drop_database(name)


def _raw_delete(server: PostgresServer, name: str) -> dict[str, Any]:
    with server.connect(name) as connection:
        started = time.monotonic()
        connection.execute(f"DELETE FROM xcom WHERE timestamp < now() - interval '{DAYS} days'")
        return {"seconds": time.monotonic() - started}


def _values_as_json(server: PostgresServer, name: str) -> dict[str, Any]:
    """The least that an archive takes: the server turns what goes into JSON on both cores, and that is all."""

    def read(half: int) -> None:
        with server.connect(name) as connection:
            connection.execute("SET max_parallel_workers_per_gather = 0")
            connection.execute(
                f"""SELECT sum(octet_length(value::text)) FROM xcom
                    WHERE timestamp < now() - interval '{DAYS} days' AND dag_run_id % 2 = {half}"""
            )

    started = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(read, range(2)))
    return {"seconds": time.monotonic() - started}


def _ours(server: PostgresServer, days: float, options: Sequence[str], name: str) -> dict[str, Any]:
    return dict(json.loads(in_a_process("benchmarks.ours", server.url(name), str(days), *options).splitlines()[-1]))


def _db_clean(server: PostgresServer, arguments: Sequence[str], name: str) -> dict[str, Any]:
    output = in_a_process(
        "benchmarks.db_clean", str(DAYS), *arguments, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=server.url(name)
    )
    [line] = [line for line in output.splitlines() if line.startswith("seconds=")]
    return {"seconds": float(line.removeprefix("seconds="))}


def in_a_process(module: str, *arguments: str, **environment: str) -> str:
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=clean_environment({"AIRFLOW_HOME": home, **environment}),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout


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
