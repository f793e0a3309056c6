"""The ports to the metadata database: one for each DAG, in batches, streams and aggregates.

Nothing above them knows SQL or holds a cursor, so that a second adapter can ask the API server instead.
"""

from __future__ import annotations

from typing import Protocol

from include.xcom_maintenance.metadata.ports.cleanup import CleanupMetadata
from include.xcom_maintenance.metadata.ports.key_rotation import RotationMetadata
from include.xcom_maintenance.metadata.ports.offload import OffloadMetadata
from include.xcom_maintenance.metadata.ports.reconciliation import ReconciliationMetadata
from include.xcom_maintenance.metadata.ports.restore import RestoreMetadata
from include.xcom_maintenance.metadata.ports.size_audit import AuditMetadata


class MetadataStore(
    CleanupMetadata,
    AuditMetadata,
    ReconciliationMetadata,
    RestoreMetadata,
    OffloadMetadata,
    RotationMetadata,
    Protocol,
):
    """All of them: what an adapter fulfils."""
