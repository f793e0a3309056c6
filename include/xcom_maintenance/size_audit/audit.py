"""The size audit: who takes the space of the ``xcom`` table, what grows, what will break next. Reads only.

What it finds is folded in ``sizes`` and ``blobs``, judged in ``findings``, and told in ``report``.
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
from include.xcom_maintenance.size_audit.overdue import overdue
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

    What cannot be told beside the sizes is a warning in the report, and not the end of the audit.

    :param channel: the way of an XCom of the running task, for the live probe; None if no task is running.
    :param make_detector: tells secrets from other texts; None: nobody looks for any.
    """
    report, settings, metadata = job.report, job.settings, job.metadata
    now = metadata.now()
    since = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=WINDOW_DAYS)
    blobs = None
    if (store := job.blobs) is not None:
        with report.phase("blobs"):
            blobs = _tried(job, "The sizes of blobs", lambda: measure_blobs(job, store, since=since))
    sizes = measure(job, blobs, since=since)
    with report.phase("largest entries"):
        entries = _with_logical_sizes(job, metadata.largest_entries(settings.top_entries))
    with report.phase("table health"):
        health = metadata.table_health()
    found = Findings(now, sizes, entries, health, blobs)
    with report.phase("hazards"):
        found.dags = _tried(job, "Which DAGs exist", metadata.dags)
        found.overdue = _tried(job, "Overdue rows", lambda: overdue(job))
    if settings.probe and channel is None:
        report.warnings.append("The live probe needs a running task, and this is none.")
    if settings.probe and channel is not None:
        with report.phase("probe"):
            timeout = settings.probe_timeout_seconds
            found.probes = _tried(job, "The live probe", lambda: probe(channel, timeout=timeout))
    if settings.secrets_scan and make_detector is not None:
        with report.phase("secrets"):
            found.secrets = _tried(job, "The scan for secrets", lambda: scan(job, make_detector))
    with report.phase("past audits"):
        known = known_enforcement(job.place.of("xcom_cleanup"))
        found.days_since_enforced = known.days_without(now) if known else None
        found.past = (
            _tried(
                job,
                "The trend",
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
    """What a look finds, or None and a warning."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - one part that fails must not hide the others
        # The text of an unknown error could quote a value.
        why = error.problem if isinstance(error, MaintenanceError) else type(error).__name__
        job.report.warnings.append(f"{what} could not be told: {why}.")
        job.log.warning("%s could not be told: %s", what, why)
        return None


def _with_logical_sizes(job: AuditJob, entries: list[Entry]) -> list[tuple[Entry, int | None]]:
    """Each of the largest entries with the size of its value as JSON, as far as the budget goes."""
    read = accumulate(entry.stored_bytes for entry in entries)
    affordable = [entry for entry, total in zip(entries, read, strict=True) if total <= job.settings.audit_budget_bytes]
    sizes = job.metadata.logical_bytes(affordable, seconds=job.settings.audit_budget_seconds)
    return list(zip_longest(entries, sizes))


def _prune_reports(job: AuditJob) -> None:
    """Delete old reports of all DAGs, if that is not turned off; a failure is a warning."""
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
        job.report.warnings.append(f"Old reports could not be deleted: {', '.join(pruned.problems[:3])}.")
