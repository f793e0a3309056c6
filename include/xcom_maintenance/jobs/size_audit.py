"""The size audit: who takes the space of the ``xcom`` table, what grows, what will break next. Reads only.

What it finds is folded in ``audit_sizes`` and ``audit_blobs``, judged in ``audit_findings``, and told in
``audit_report``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from include.xcom_maintenance.core.audit import ProbeResult, SecretScan
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.table_figures import Entry
from include.xcom_maintenance.jobs.audit_blobs import measure_blobs
from include.xcom_maintenance.jobs.audit_findings import WINDOW_DAYS, Findings
from include.xcom_maintenance.jobs.audit_report import describe
from include.xcom_maintenance.jobs.audit_sizes import measure
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.jobs.overdue import overdue
from include.xcom_maintenance.reports.enforcement import known_enforcement
from include.xcom_maintenance.reports.past import past_audits

_T = TypeVar("_T")


def audit(
    job: Job,
    *,
    probe: Callable[[], list[ProbeResult]] | None = None,
    secrets: Callable[[Job], SecretScan] | None = None,
) -> None:
    """Measure the ``xcom`` table and describe it.

    What cannot be told beside the sizes is a warning in the report, and not the end of the audit.

    :param probe: pushes and pulls canary values through the XCom backend.
    :param secrets: looks for secrets in the newest values.
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
    if probe is not None:
        with report.phase("probe"):
            found.probes = _tried(job, "The live probe", probe)
    if secrets is not None:
        with report.phase("secrets"):
            found.secrets = _tried(job, "The scan for secrets", lambda: secrets(job))
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
    report.finish("audited")


def _tried(job: Job, what: str, look: Callable[[], _T]) -> _T | None:
    """What a look finds, or None and a warning."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - one part that fails must not hide the others
        # The text of an unknown error could quote a value.
        why = error.problem if isinstance(error, MaintenanceError) else type(error).__name__
        job.report.warnings.append(f"{what} could not be told: {why}.")
        job.log.warning("%s could not be told: %s", what, why)
        return None


def _with_logical_sizes(job: Job, entries: list[Entry]) -> list[tuple[Entry, int | None]]:
    """Each of the largest entries with the size of its value as JSON, as far as the budget goes."""
    left = job.settings.audit_budget_bytes
    deadline = time.monotonic() + job.settings.audit_budget_seconds
    found: list[tuple[Entry, int | None]] = []
    for entry in entries:
        left -= entry.stored_bytes
        seconds = deadline - time.monotonic()
        may_read = left >= 0 and seconds > 0
        found.append((entry, job.metadata.logical_bytes(entry, seconds=seconds) if may_read else None))
    return found
