"""Runs the whole size audit in this process, as its task does, and prints figures about it as JSON.

Usage: ``python -m benchmarks.our_audit <url> [--report <file>]``. Timed from the first statement to the written report.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psycopg
from airflow.sdk import ObjectStoragePath

from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.detection.secrets import SecretDetector
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.size_audit import audit as size_audit
from include.xcom_maintenance.size_audit import secrets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--report", help="keep the report in Markdown here")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    settings = Settings()
    with tempfile.TemporaryDirectory() as folder:
        report = Report("xcom_size_audit", "benchmark", mode="report")
        place = ReportPlace(ObjectStoragePath(f"file://{folder}"), report.dag_id, report.run_id)
        place.write(report)
        started = time.monotonic()
        with PostgresMetadataStore(
            lambda: psycopg.connect(arguments.url),
            setting="metadata_conn_id",
            lock_timeout=settings.lock_timeout_seconds,
            statement_timeout=settings.statement_timeout_seconds,
        ) as metadata:
            identity = metadata.check(may_delete=False, reads_references=False)
            # All but the live probe, which needs a running task; it takes no time that depends on the table.
            scan = partial(secrets.scan, make_detector=SecretDetector)
            size_audit.audit(Job(settings, metadata, identity, None, report, place), secrets=scan)
        place.write(report)
        seconds = time.monotonic() - started
        if arguments.report:
            Path(arguments.report).write_text(Path(folder, "xcom_size_audit", "benchmark.md").read_text())
    figures = {
        "seconds": seconds,
        "phases": {phase["name"]: phase["seconds"] for phase in report.phases},
        "rows": report.headline["rows"],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
