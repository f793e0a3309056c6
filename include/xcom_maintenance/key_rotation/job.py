"""What the steps of this DAG are given."""

from __future__ import annotations

from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.key_rotation import RotationMetadata
from include.xcom_maintenance.settings.common import CommonSettings

RotationJob = Job[CommonSettings, RotationMetadata]
