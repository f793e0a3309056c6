"""The way of an XCom as a task goes it: through the supervisor, the API server and the configured XCom backend."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from include.xcom_maintenance import stores
from include.xcom_maintenance.core.blob_uri import BlobUri, InvalidBlobUri
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.metadata.port import MetadataStore, StoredValue
from include.xcom_maintenance.settings import Resolved, Settings

log = logging.getLogger("xcom_maintenance")


class TaskChannel:
    """XComs of the running task.

    :param context: of the task.
    :raises KeyError: if it is none of a task instance.
    """

    def __init__(self, context: Mapping[str, Any], *, metadata: MetadataStore, settings: Settings) -> None:
        self._ti = context["ti"]
        self._metadata = metadata
        self._settings = settings
        self._blobs: Any = None

    def push(self, key: str, value: Any) -> None:
        self._ti.xcom_push(key=key, value=value)

    def pull(self, key: str) -> Any:
        return self._ti.xcom_pull(task_ids=self._ti.task_id, key=key, map_indexes=self._ti.map_index)

    def remove(self, key: str) -> None:
        _backend().delete(key=key, **self._place())

    def stored(self, key: str) -> StoredValue | None:
        return self._metadata.stored(key=key, **self._place())

    def blob_bytes(self, reference: str) -> int | None:
        try:
            uri = BlobUri.parse(reference)
        except InvalidBlobUri:
            return None
        # Where the blobs cannot be looked at, only their size remains unknown.
        with suppress(MaintenanceError):
            if self._blobs is None:
                configured = stores.open_blobs(Resolved(self._settings, {}))
                self._blobs = configured.store if configured else None
            if self._blobs is not None and self._blobs.base.contains(uri):
                key = uri.key.removeprefix(self._blobs.base.prefix)
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
