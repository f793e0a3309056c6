"""The retention policy as configured now."""

from __future__ import annotations

from datetime import datetime

from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.shared import RetentionMetadata
from include.xcom_maintenance.retention.policy import Policy
from include.xcom_maintenance.retention.settings import RetentionSettings


def policy_of(job: Job[RetentionSettings, RetentionMetadata], now: datetime) -> Policy:
    """The rules as configured now, applied at a point in time."""
    rules = job.settings.rules()
    tags = job.metadata.dag_tags() if any(rule.tags or rule.exclude_tags for rule in rules) else {}
    return Policy(rules, now=now, tags=tags)
