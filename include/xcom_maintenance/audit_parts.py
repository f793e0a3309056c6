"""An audit as its task runs it: with what needs more than the database, which is the task itself and a detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from include.xcom_maintenance import stores
from include.xcom_maintenance.core.audit import ProbeResult
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.detection import SecretDetector
from include.xcom_maintenance.jobs import probe, secrets, size_audit
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.reports.pruning import prune
from include.xcom_maintenance.task_channel import TaskChannel


def of_task(context: Mapping[str, Any]) -> Callable[[Job], None]:
    """The audit of the task that is running.

    :param context: of the task.
    """

    def audit(job: Job) -> None:
        settings = job.settings
        if settings.probe and "ti" not in context:
            job.report.warnings.append("The live probe needs a running task, and this is none.")
        size_audit.audit(
            job,
            probe=partial(_send_canaries, job, context) if settings.probe and "ti" in context else None,
            secrets=partial(secrets.scan, make_detector=SecretDetector) if settings.secrets_scan else None,
        )
        _prune_reports(job)

    return audit


def _send_canaries(job: Job, context: Mapping[str, Any]) -> list[ProbeResult]:
    channel = TaskChannel(context, metadata=job.metadata, settings=job.settings)
    return probe.probe(channel, timeout=job.settings.probe_timeout_seconds)


def _prune_reports(job: Job) -> None:
    """Delete old reports of all DAGs, if that is not turned off; a failure is a warning."""
    if job.settings.keep_reports_days is None:
        return
    with job.report.phase("prune reports"):
        try:
            pruned = prune(
                stores.report_root(job.settings), now=datetime.now(UTC), keep_days=job.settings.keep_reports_days
            )
        except MaintenanceError as error:
            job.report.warnings.append(f"Old reports were not pruned: {error}")
            return
    job.report.headline["reports_pruned"] = pruned.reports
    if pruned.problems:
        job.report.warnings.append(f"Old reports could not be deleted: {', '.join(pruned.problems[:3])}.")
