"""What the steps of this DAG are given."""

from __future__ import annotations

from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.reconciliation import ReconciliationMetadata
from include.xcom_maintenance.reconciliation.settings import ReconciliationSettings

ReconciliationJob = Job[ReconciliationSettings, ReconciliationMetadata]
