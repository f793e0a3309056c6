"""What the steps of this DAG are given."""

from __future__ import annotations

from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.size_audit import AuditMetadata
from include.xcom_maintenance.size_audit.settings import AuditSettings

AuditJob = Job[AuditSettings, AuditMetadata]
