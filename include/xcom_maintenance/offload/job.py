"""What the steps of this DAG are given."""

from __future__ import annotations

from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.offload import OffloadMetadata
from include.xcom_maintenance.offload.settings import OffloadSettings

OffloadJob = Job[OffloadSettings, OffloadMetadata]
