"""The parts of an audit that need more than the database: the live probe, the scan for secrets, and the pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from include.xcom_maintenance import stores
from include.xcom_maintenance.canary import TaskChannel
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.detection import SecretDetector
from include.xcom_maintenance.jobs import probe, secrets
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.reports.pruning import prune


def of_task(context: Mapping[str, Any]) -> tuple[Callable[[Job], None], ...]:
    """What the audit that runs in this task does besides measuring.

    :param context: of the task.
    """

    def send_canaries(job: Job) -> None:
        if not job.settings.probe:
            return
        with job.report.phase("live probe"):
            if "ti" not in context:
                job.report.warnings.append("The live probe needs a running task, and this is none.")
                return
            channel = TaskChannel(context, metadata=job.metadata, settings=job.settings)
            results = probe.probe(channel, timeout=job.settings.probe_timeout_seconds)
        probe.describe_probe(job.report, results)

    return send_canaries, look_for_secrets, prune_reports


def look_for_secrets(job: Job) -> None:
    """Scan values for secrets, if that is not turned off."""
    if not job.settings.secrets_scan:
        return
    with job.report.phase("secrets"):
        found = secrets.scan(job, SecretDetector)
    secrets.describe_secrets(job.report, found, top=job.settings.top_entries)


def prune_reports(job: Job) -> None:
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
