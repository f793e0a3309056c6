"""What the steps of this DAG are given."""

from __future__ import annotations

from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.restore import RestoreMetadata
from include.xcom_maintenance.restore.settings import RestoreSettings

RestoreJob = Job[RestoreSettings, RestoreMetadata]
