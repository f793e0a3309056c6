"""VACUUM after rows were deleted or values moved out."""

from __future__ import annotations

from typing import Any

from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.shared import VacuumMetadata
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.settings.common import CommonSettings


def vacuum(job: Job[CommonSettings, VacuumMetadata]) -> None:
    """Make the space of deleted rows reusable, and report what that really frees."""
    if not job.metadata.may_vacuum():
        job.report.warnings.append(
            "vacuum is set, but the role of the connection may not vacuum the table: it must own the table or, on "
            "Postgres 17 and later, hold MAINTAIN (GRANT MAINTAIN ON xcom TO ...). Autovacuum will do it eventually."
        )
        return
    before = job.metadata.table_health()
    with job.report.phase("vacuum"):
        job.metadata.vacuum()
    after = job.metadata.table_health()
    rows: list[list[Any]] = [
        [what, getattr(before, name), getattr(after, name)]
        for what, name in (
            ("rows", "heap_bytes"),
            ("large values (TOAST)", "toast_bytes"),
            ("indexes", "index_bytes"),
            ("total", "total_bytes"),
        )
    ]
    note = (
        "VACUUM makes the space of deleted rows available to new ones. It only returns empty pages at the very end of "
        "the table to the operating system, so the size on disk may hardly change; to shrink it, use VACUUM FULL or "
        "pg_repack."
    )
    job.report.put(Table("VACUUM", ["part of the table", "bytes before", "bytes after"], rows, note))
