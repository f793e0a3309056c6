"""The plan of the current run: its parts while it is made, and its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.reconciliation.job import ReconciliationJob

#: What the tasks from plan to decide pass on to each other, by number.
PARTS = ("references", "found", "plan")
PLAN = "plan-0"


def own_plan(job: ReconciliationJob) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """As ``Job.own_plan``.

    :raises ConfigurationError: also if the plan is too old.
    """
    header, lines = job.own_plan()
    age = job.metadata.now() - datetime.fromisoformat(header["planned_at"])
    limit = job.settings.max_manifest_age_days
    if age > timedelta(days=limit):
        raise ConfigurationError(
            f"The manifest is {age / timedelta(days=1):.1f} days old, more than the limit of {limit:g}",
            setting="max_manifest_age_days",
            remedy="Run the DAG again for a new plan",
        )
    return header, lines


def planned_parts(job: ReconciliationJob) -> dict[str, Any]:
    """What ``plan`` passed on to ``find`` and ``decide``.

    :raises ConfigurationError: if it is not this run's plan for the current configuration.
    """
    planned = job.place.read_part(PLAN)
    if planned is None or planned["plan_id"] != job.report.plan_id or not job.is_for_us(planned):
        raise ConfigurationError(
            "The plan of this run was made by another run, or for another database or base path",
            setting="report_path, metadata_conn_id, blob_base_path",
            remedy="Nothing was changed. Run the DAG again. Likely causes: the configuration changed during the run, "
            "two Airflows share a report path, or a task was cleared after the run had ended",
        )
    return planned
