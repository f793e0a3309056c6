"""The size audit: what fills the ``xcom`` table, what grows, and what will break next. Read-only.

``sizes`` and ``blobs`` collect the figures, ``findings`` judges them, and ``report`` presents them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import accumulate, zip_longest
from typing import TypeVar

from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.table_figures import Entry
from include.xcom_maintenance.detection.port import Detector
from include.xcom_maintenance.flow.uploads import tell_of_uploads
from include.xcom_maintenance.reports.enforcement import known_enforcement
from include.xcom_maintenance.reports.pruning import prune
from include.xcom_maintenance.size_audit.blobs import measure_blobs
from include.xcom_maintenance.size_audit.findings import WINDOW_DAYS, Findings
from include.xcom_maintenance.size_audit.job import AuditJob
from include.xcom_maintenance.size_audit.overdue import long_runs, overdue
from include.xcom_maintenance.size_audit.past_audits import past_audits
from include.xcom_maintenance.size_audit.probe import probe
from include.xcom_maintenance.size_audit.report import describe
from include.xcom_maintenance.size_audit.secrets import scan
from include.xcom_maintenance.size_audit.sizes import measure
from include.xcom_maintenance.xcom_backend.port import Channel

_T = TypeVar("_T")


def audit(
    job: AuditJob,
    *,
    channel: Channel | None = None,
    make_detector: Callable[[], Detector] | None = None,
) -> None:
    """Measure the ``xcom`` table and describe it.

    If anything but the sizes cannot be determined, the report gets a warning and the audit goes on.

    :param channel: pushes and pulls XComs of the running task, for the live probe; None if no task is running.
    :param make_detector: makes what recognizes secrets; None: no scan.
    """
    report, settings, metadata = job.report, job.settings, job.metadata
    now = metadata.now()
    since = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=WINDOW_DAYS)
    blobs = None
    if (store := job.blobs) is not None:
        with report.phase("blobs"):
            blobs = _tried(job, "Measuring blob sizes", lambda: measure_blobs(job, store, since=since))
    sizes = measure(job, blobs, since=since)
    with report.phase("largest entries"):
        entries = _with_logical_sizes(job, metadata.largest_entries(settings.top_entries))
    with report.phase("table health"):
        health = metadata.table_health()
    found = Findings(now, sizes, entries, health, blobs)
    with report.phase("hazards"):
        found.dags = _tried(job, "Listing the DAGs", metadata.dags)
        found.overdue = _tried(job, "Counting overdue rows", lambda: overdue(job))
        found.long_runs = _tried(job, "Listing runs that do not end", lambda: long_runs(job))
    if settings.probe and channel is None:
        report.warnings.append("The live probe was skipped: it only works inside a running task.")
    if settings.probe and channel is not None:
        with report.phase("probe"):
            timeout = settings.probe_timeout_seconds
            found.probes = _tried(job, "The live probe", lambda: probe(channel, timeout=timeout))
    if settings.secrets_scan and make_detector is not None:
        with report.phase("secrets"):
            found.secrets = _tried(job, "The secrets scan", lambda: scan(job, make_detector))
    with report.phase("past audits"):
        known = known_enforcement(job.place.of("xcom_cleanup"))
        found.days_since_enforced = known.days_without(now) if known else None
        found.past = (
            _tried(
                job,
                "Reading past audits",
                lambda: past_audits(job.place, settings.trend_audits, database=job.identity.owner),
            )
            or []
        )
    found.conclude(settings)
    describe(job, found)
    _tried(job, "Unfinished multipart uploads", lambda: tell_of_uploads(job))
    report.finish("audited")
    _prune_reports(job)


def _tried(job: AuditJob, what: str, look: Callable[[], _T]) -> _T | None:
    """The result of a step; if it fails, None and a warning."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - one failing part must not hide the others
        # The text of an unknown error could quote a value.
        why = error.problem if isinstance(error, MaintenanceError) else type(error).__name__
        job.report.warnings.append(f"{what} failed: {why}.")
        job.log.warning("%s failed: %s", what, why)
        return None


def _with_logical_sizes(job: AuditJob, entries: list[Entry]) -> list[tuple[Entry, int | None]]:
    """The largest entries, each with the size of its value as JSON as far as the budget allows."""
    read = accumulate(entry.stored_bytes for entry in entries)
    affordable = [entry for entry, total in zip(entries, read, strict=True) if total <= job.settings.audit_budget_bytes]
    sizes = job.metadata.logical_bytes(affordable, seconds=job.settings.audit_budget_seconds)
    return list(zip_longest(entries, sizes))


def _prune_reports(job: AuditJob) -> None:
    """Delete old reports of all DAGs unless that is turned off; a failure is only a warning."""
    if job.settings.keep_reports_days is None:
        return
    with job.report.phase("prune reports"):
        try:
            pruned = prune(job.place.root, now=datetime.now(UTC), keep_days=job.settings.keep_reports_days)
        except MaintenanceError as error:
            job.report.warnings.append(f"Old reports were not pruned: {error}")
            return
    job.report.headline["reports_pruned"] = pruned.reports
    if pruned.problems:
        job.report.warnings.append(f"Some old reports could not be deleted: {', '.join(pruned.problems[:3])}.")
