"""VACUUM after rows were deleted or values moved out."""

from __future__ import annotations

from typing import Any

from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.shared import VacuumMetadata
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.settings.common import CommonSettings


def vacuum(job: Job[CommonSettings, VacuumMetadata]) -> None:
    """Let new rows use the space of the deleted ones, and say honestly what that gives back."""
    if not job.metadata.may_vacuum():
        job.report.warnings.append(
            "vacuum is set, but the role of the connection may not vacuum the table: it must own it, or on Postgres 17 "
            "and later have the right MAINTAIN (GRANT MAINTAIN ON xcom TO ...). Autovacuum does it sooner or later."
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
            ("all", "total_bytes"),
        )
    ]
    note = (
        "VACUUM lets new rows use the space of deleted ones. It gives back to the operating system only what is empty "
        "at the very end of the table, so the size on disk may hardly change; only VACUUM FULL or pg_repack shrink it."
    )
    job.report.put(Table("VACUUM", ["part of the table", "bytes before", "bytes after"], rows, note))
