"""Runs the whole cleanup in this process, as its tasks do, and prints figures about it as JSON.

Usage: ``python -m benchmarks.ours <url> <days> [--archive]``. Timed from the first statement to the last: plan, guard,
manifest, sharing out, deleting in as many tasks as the plan asks for, ``WORKERS`` at a time, and the report.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from airflow.sdk import ObjectStoragePath
from airflow.sdk.listener import get_listener_manager

from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.cleanup import delete_rows, finish, plan, share_out
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report

#: Tasks that run at a time: an executor with two slots, on a machine with two cores.
WORKERS = 2


@dataclass
class Run:
    """What the tasks of one run share."""

    url: str
    settings: Settings
    report: Report
    place: ReportPlace
    archives: Archives

    @contextmanager
    def job(self) -> Iterator[Job]:
        """What each task makes for itself: a connection of its own, checked."""
        with PostgresMetadataStore(
            lambda: psycopg.connect(self.url, prepare_threshold=None),  # as the tasks connect
            setting="metadata_conn_id",
            lock_timeout=self.settings.lock_timeout_seconds,
            statement_timeout=self.settings.statement_timeout_seconds,
        ) as metadata:
            identity = metadata.check(may_delete=True, reads_references=False)
            yield Job(self.settings, metadata, identity, None, self.report, self.place, self.archives)

    def delete(self, shard: dict[str, Any]) -> None:
        with self.job() as job:
            delete_rows.delete_rows(job, shard)


def clean(run: Run, *, workers: int) -> dict[str, Any]:
    started = time.monotonic()
    with run.job() as job:
        plan.plan(job)
        run.place.write(run.report)
        planned = time.monotonic()
    with run.job() as job:
        shards = share_out.share_out(job)
    # As an executor does: a process for each task.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        list(pool.map(run.delete, shards))
    with run.job() as job:
        finish.finish(job, shards)
        run.place.write(run.report)
    return {
        "seconds": time.monotonic() - started,
        "plan_seconds": planned - started,
        "longest_transaction": run.report.headline["longest_transaction_seconds"],
        "rows": run.report.headline["rows_deleted"],
        "shards": len(shards),
        "peak_rss_mb": _peak_rss_mb(),
    }


def _start_up(root: ObjectStoragePath) -> None:
    """What Airflow's task runner has done before a task begins, and is no part of it: plugins are loaded by then."""
    get_listener_manager()
    with ReportPlace(root / "start-up", "none", "none").write_manifest():
        pass


def _peak_rss_mb() -> float:
    """Of the largest process; each task has one of its own."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("days", type=float)
    parser.add_argument("--archive", action="store_true")
    parser.add_argument("--workers", type=int, default=WORKERS)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(dir="build") as folder:
        report = Report("xcom_cleanup", "benchmark", mode="enforce")
        root = ObjectStoragePath(f"file://{folder}")
        place = ReportPlace(root / "reports", report.dag_id, report.run_id)
        place.write(report)
        settings = Settings(mode="enforce", max_age_days=arguments.days)
        archives = Archives(root / "archive" if arguments.archive else None)
        _start_up(root)
        json.dump(clean(Run(arguments.url, settings, report, place, archives), workers=arguments.workers), sys.stdout)


if __name__ == "__main__":
    main()
