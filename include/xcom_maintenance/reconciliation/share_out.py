"""Split the orphans of the manifest between tasks."""

from __future__ import annotations

import math

from include.xcom_maintenance.flow.shards import Shard
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.manifest import own_plan
from include.xcom_maintenance.sweep.owner import claim


def share_out(job: ReconciliationJob) -> list[Shard]:
    """Split the orphans of the manifest between tasks; the first step with an effect outside the report path.

    :raises ConfigurationError: if the manifest is too old, or not this run's plan for the current configuration.
    :raises ImplausiblePlan: if another database has claimed the base path.
    """
    blobs, settings = job.blob_store, job.settings
    own_plan(job)
    orphans = job.report.headline["orphan_blobs"]
    if not orphans:
        return []
    claim(blobs, job.identity)
    tasks = min(settings.max_shards, max(1, math.ceil(orphans / settings.shard_blobs)))
    bounds = [orphans * part // tasks for part in range(tasks + 1)]
    return [
        {"shard": number, "first": bounds[number - 1], "last": bounds[number] - 1} for number in range(1, tasks + 1)
    ]
