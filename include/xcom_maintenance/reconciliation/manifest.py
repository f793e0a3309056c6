"""The plan of the run that is under way: its parts while it is made, and its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.reconciliation.job import ReconciliationJob

#: What the tasks between plan and decide leave for each other, by number.
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
            f"The manifest was made {age / timedelta(days=1):.1f} days ago, longer than {limit:g}",
            setting="max_manifest_age_days",
            remedy="Run the DAG again for a new plan",
        )
    return header, lines


def planned_parts(job: ReconciliationJob) -> dict[str, Any]:
    """What ``plan`` left for the tasks that find, and for the one that decides.

    :raises ConfigurationError: if it is not this run's plan for what is configured now.
    """
    planned = job.place.read_part(PLAN)
    if planned is None or planned["plan_id"] != job.report.plan_id or not job.is_for_us(planned):
        raise ConfigurationError(
            "The plan of this run was made by another run, or for another database or base path",
            setting="report_path, metadata_conn_id, blob_base_path",
            remedy="The configuration changed while the run was under way, two Airflows share a report path, or a task "
            "was cleared after the run had ended; run the DAG again. Nothing was changed",
        )
    return planned
