"""What the steps of this DAG are given."""

from __future__ import annotations

from include.xcom_maintenance.cleanup.settings import CleanupSettings
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.cleanup import CleanupMetadata

CleanupJob = Job[CleanupSettings, CleanupMetadata]
