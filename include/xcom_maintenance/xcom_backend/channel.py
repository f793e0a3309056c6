"""The way of an XCom as a task goes it: through the supervisor, the API server and the configured XCom backend."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.references import reference_of
from include.xcom_maintenance.metadata.ports.size_audit import AuditMetadata, StoredValue

log = logging.getLogger("xcom_maintenance")


class TaskChannel:
    """XComs of the running task.

    :param task_instance: as the task's context has it.
    :param blobs: where blobs are looked at; None: their size remains unknown.
    """

    def __init__(self, task_instance: Any, *, metadata: AuditMetadata, blobs: BlobStore | None) -> None:
        self._ti = task_instance
        self._metadata = metadata
        self._blobs = blobs

    @classmethod
    def of(cls, context: Mapping[str, Any], *, metadata: AuditMetadata, blobs: BlobStore | None) -> TaskChannel | None:
        """The channel of the task that is running; None if none is."""
        return cls(context["ti"], metadata=metadata, blobs=blobs) if "ti" in context else None

    def push(self, key: str, value: Any) -> None:
        self._ti.xcom_push(key=key, value=value)

    def pull(self, key: str) -> Any:
        return self._ti.xcom_pull(task_ids=self._ti.task_id, key=key, map_indexes=self._ti.map_index)

    def remove(self, key: str) -> None:
        _backend().delete(key=key, **self._place())

    def stored(self, key: str) -> StoredValue | None:
        return self._metadata.stored(key=key, **self._place())

    def blob_bytes(self, reference: str) -> int | None:
        found = reference_of(reference)
        key = found.below(self._blobs.base) if found is not None and self._blobs is not None else None
        if self._blobs is None or key is None:
            return None
        # Where the blobs cannot be looked at, only their size remains unknown.
        with suppress(MaintenanceError):
            return next((blob.size for blob in self._blobs.head([key])), None)
        return None

    def encryption_seconds(self) -> float | None:
        """By a class method of the backend, ``probe_report()``, which tells of the last push of this process."""
        report = getattr(_backend(), "probe_report", None)
        found = report() if callable(report) else None
        seconds = found.get("encryption_seconds") if isinstance(found, Mapping) else None
        return float(seconds) if isinstance(seconds, int | float) else None

    def _place(self) -> dict[str, Any]:
        ti = self._ti
        return {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}


def _backend() -> Any:
    """The class that Airflow has resolved ``[core] xcom_backend`` to."""
    from airflow.sdk.execution_time.xcom import XCom

    return XCom
