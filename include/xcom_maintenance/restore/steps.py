"""The two steps of a restore: rows from an archive, or blobs from quarantine."""

from __future__ import annotations

from include.xcom_maintenance.restore import blobs, rows
from include.xcom_maintenance.restore.job import RestoreJob


def plan(job: RestoreJob) -> None:
    """Find out what can be restored, and write it down; changes nothing."""
    (rows if job.settings.quarantine is None else blobs).plan(job)


def apply(job: RestoreJob) -> None:
    """Restore it."""
    (rows if job.settings.quarantine is None else blobs).apply(job)
